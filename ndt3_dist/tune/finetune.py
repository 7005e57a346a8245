"""Fine-tune an export on one session in a single process, or train the same model from scratch.

Each step draws windows at random starts inside the fit split (keyed by the seed and the step); the
last part of the split is held back and decoded with a sliding context to choose the best step. One
that was killed goes on with the same command (`train.unfinished`).
"""

import copy
import time
from pathlib import Path

import numpy as np
import torch

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.export import describe_export, normalisation, write_export
from ndt3_dist.data.order import generator, seed_of
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.evaluate.decode import decode
from ndt3_dist.evaluate.metrics import r2_scores
from ndt3_dist.model.load import read_export_config, read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train.plain import PlainOptimizer
from ndt3_dist.train.schedule import learning_rate
from ndt3_dist.tune.fit_data import FitData, draw_windows, read_fit_data
from ndt3_dist.tune.lora import merge
from ndt3_dist.tune.parts import rate_scales
from ndt3_dist.tune.transfer import start_model
from ndt3_dist.tune.tune_config import TuneConfig
from ndt3_dist.tune.unfinished import Unfinished

STRIDE = 10
"""Bins per decoding pass when the held-back part is scored."""


def finetune(config: TuneConfig, init: str | None, scratch: bool = False) -> dict:
    """Fit a decoder; writes RUN/metrics.jsonl (a refit also refit.jsonl) and RUN/export.

    Args:
        config: Checked configuration.
        init: Export to start from; with `scratch` only its architecture is used; None = the
            config's own `model` section.
        scratch: Start from random weights (always so without `init`).
    Returns:
        run, export, best_step, r2_val, steps, seconds.
    """
    run = Path(config.run.dir) / config.run.name
    data = read_fit_data(config)
    model, new = start_model(config, init, scratch)
    if init and read_normalisation(init)["bin_size_ms"] != data.manifest.bin_size_ms:
        raise BadInput(
            f"{init} was trained on bins of {read_normalisation(init)['bin_size_ms']:g} ms, "
            f"{config.data.corpus} has {data.manifest.bin_size_ms:g}"
        )
    Layout.of(data.session, model.config)  # refuses what the model cannot hold
    weights = storage.sha256_file(Path(init) / "model.safetensors") if init else ""
    begun = {"from": weights, "scratch": scratch, "corpus": data.manifest.fingerprint}
    with Unfinished(run, {**config.model_dump(mode="json"), "begun": begun}) as unfinished:
        return fit_and_export(config, None if scratch else init, model, new, data, unfinished)


def fit_and_export(
    config: TuneConfig,
    init: str | None,
    model: NDT3,
    new: set[str],
    data: FitData,
    unfinished: Unfinished,
) -> dict:
    """What `finetune` does once its folder is open; `init` is None from scratch."""
    run, began = unfinished.run, time.perf_counter()
    log.say(
        f"run {run}: from {init or 'scratch'}, session {data.session.id} "
        f"({', '.join(c.name for c in data.session.covariates)}), "
        f"{sum(map(len, data.first))} bins to fit, {sum(map(len, data.last))} held back"
    )
    start = copy.deepcopy(model) if config.train.refit else None
    best, weights = unfinished.fitted, {}
    if not best:
        best, weights = fit(config, model, new, data, config.train.steps, unfinished)
    if start is not None:
        log.say(f"again on all {sum(map(len, data.undivided))} bins, for {best['step']} steps")
        unfinished.refit(best)
        _, weights = fit(config, start, new, data.whole(), best["step"], unfinished)
    weights = merge(weights, config.lora.alpha / max(config.lora.rank, 1))
    trained = {
        "run": config.run.name,
        "step": best["step"],
        "epochs": 0.0,
        "corpus": data.manifest.fingerprint,
        "session": data.session.id,
    }
    if init:
        trained["init"] = read_export_config(init)["trained"]
    if config.train.refit:
        trained["refit"] = True
    described = describe_export(model.config, weights, "fp32", trained)
    norms = normalisation(data.manifest, [data.session])
    write_export(run / "export", weights, described, norms)
    unfinished.ended()
    return {
        "run": str(run),
        "export": str(run / "export"),
        "best_step": best["step"],
        "r2_val": best["r2_val"],
        "steps": config.train.steps,
        "seconds": round(time.perf_counter() - began, 1),
    }


def fit(
    config: TuneConfig,
    model: NDT3,
    new: set[str],
    data: FitData,
    steps: int,
    unfinished: Unfinished,
) -> tuple[dict, dict[str, torch.Tensor]]:
    """The training loop.

    Args:
        config: Checked configuration.
        model: Moved to the device and trained in place.
        new: Names of its parameters that learn at the full rate.
        data: Where nothing is held back, nothing is scored and the last step counts.
        steps: Steps to make, unless patience ends before.
        unfinished: Where it stands, and where its metrics go.
    Returns:
        The best score on the held-back part and its fp32 weights.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    layout = Layout.of(data.session, model.config)
    scales = rate_scales(model, config.optim.layer_decay, new)
    optimizer = PlainOptimizer(model, config.optim, config.train.precision, scales)
    truth = np.concatenate([r.covariates for r in data.last]) if data.last else None
    best: dict = {"r2_val": -np.inf, "step": 0}
    made, best, weights, without_gain = unfinished.resume(optimizer, best)
    with unfinished.lines(made) as write:
        for step in log.progress(range(made + 1, steps + 1), "fine-tune", total=steps - made):
            draw = generator("windows", config.run.seed, step)
            arrays = draw_windows(data, layout, model.config, config.train.batch, draw)
            tokens = PackedTokens.from_numpy(arrays, device)
            num_spikes = int(arrays["spike_channels"].sum())
            num_covariates = int(arrays["covariate_valid"].sum())
            torch.manual_seed(seed_of("dropout", config.run.seed, step))
            model.train()
            out = model(tokens, num_spikes, num_covariates)
            out.loss.backward()
            # The schedule of a fine-tune runs in steps: one "epoch" is one step.
            norm = optimizer.step(learning_rate(config.optim, step - 1))
            if not np.isfinite(norm):
                raise Diverged(
                    f"run {config.run.name}, step {step}: the gradient's norm is {norm}, loss "
                    f"{float(out.loss.detach())}; lower optim.lr ({config.optim.lr:g})"
                )
            values = {
                "step": step,
                "loss": float(out.sums[0]) / num_spikes
                + float(out.sums[1]) / max(num_covariates, 1),
                "loss_covariates": float(out.sums[1]) / max(num_covariates, 1),
                "grad_norm": norm,
            }
            if truth is not None and (step % config.train.eval_every == 0 or step == steps):
                model.eval()
                stride = min(STRIDE, data.window)
                decoded = [decode(model, r, layout, data.window, stride) for r in data.last]
                values["r2_val"] = r2_scores(truth, np.concatenate(decoded))["r2"]
                log.say(f"step {step}  loss {values['loss']:.4f}  r2_val {values['r2_val']:.4f}")
                without_gain += 1
                if values["r2_val"] > best["r2_val"]:
                    best, weights, without_gain = values, optimizer.snapshot(), 0
            write(values)
            if config.train.patience and without_gain == config.train.patience:
                log.say(f"stopped at step {step}: {without_gain} scores without a better one")
                break
            unfinished.save(optimizer, step, best, weights, without_gain)
    if data.last and not best["step"]:
        raise BadInput(
            f"session {data.session.id}: R2 of the held-back part was never a number; its "
            "covariates are constant there, choose another data.val_fraction"
        )
    return (best, weights) if data.last else (best, optimizer.snapshot())

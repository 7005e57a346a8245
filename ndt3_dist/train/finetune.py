"""Fine-tune an export on one session in a single process, or train the same model from scratch.

Each step draws windows at random starts inside the fit split (keyed by the seed and the step); the
last part of the split is held back and decoded with a sliding context to choose the best step.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.export import describe_export, normalisation, write_export
from ndt3_dist.config import ModelConfig, TuneConfig, check
from ndt3_dist.data.continuous import Run, read_runs, sessions_with, split_last
from ndt3_dist.data.order import generator, seed_of
from ndt3_dist.data.tokens import Layout, TokenLists, tokenise
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.evaluate.decode import decode
from ndt3_dist.evaluate.metrics import scores
from ndt3_dist.model.export import load_model, read_export_config, read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.format import Manifest, Session
from ndt3_dist.shards.read import Corpus
from ndt3_dist.train.plain import PlainOptimizer
from ndt3_dist.train.schedule import learning_rate

STRIDE = 10
"""Bins per decoding pass when the held-back part is scored."""


@dataclass(frozen=True)
class FitData:
    """What a decoder may be fitted on.

    Attributes:
        manifest: Of the corpus.
        session: Its entry.
        first: Runs to draw windows from.
        last: Runs held back to choose the best step.
        window: Bins of a window.
    """

    manifest: Manifest
    session: Session
    first: list[Run]
    last: list[Run]
    window: int


def read_fit_data(config: TuneConfig) -> FitData:
    """The fit split of the config's session; BadInput where it is ambiguous or too short."""
    corpus = Corpus(config.data.corpus, (config.data.fit,))
    known = sessions_with(corpus)
    if not config.data.session and len(known) > 1:
        raise BadInput(
            f"{config.data.corpus}: several sessions have split {config.data.fit}; "
            f"choose one with data.session=, of {', '.join(known)}"
        )
    session, runs = read_runs(corpus, config.data.session or known[0])
    if not session.covariates:
        raise BadInput(f"session {session.id} has no covariates to fit a decoder to")
    window = corpus.manifest.window_bins
    first, last = split_last(runs, config.data.val_fraction)
    first = [r for r in first if len(r) >= window]
    if not first or not last:
        raise BadInput(
            f"session {session.id}: split {config.data.fit} is too short to hold back "
            f"{config.data.val_fraction:.0%} of it and still fill windows of {window} bins"
        )
    for part, found in (("fitted", first), ("held back", last)):
        if not any(np.isfinite(r.covariates).any() for r in found):
            raise BadInput(
                f"session {session.id}: no valid covariate in the {part} part of split "
                f"{config.data.fit}; choose another data.val_fraction or session"
            )
    return FitData(corpus.manifest, session, first, last, window)


def draw_windows(data: FitData, layout: Layout, model: ModelConfig, count: int, draw) -> dict:
    """Packed arrays of `count` windows at random starts."""
    room = np.array([len(r) - data.window + 1 for r in data.first])
    lists = TokenLists()
    for pick in draw.integers(0, room.sum(), count).tolist():
        number = int(np.searchsorted(np.cumsum(room), pick, side="right"))
        start = pick - int(room[:number].sum())
        sample = data.first[number].window(start, start + data.window)
        lists.add(*tokenise(sample, layout, model))
    return lists.pack()


def finetune(config: TuneConfig, init: str | None, scratch: bool = False) -> dict:
    """Fit a decoder; writes RUN/metrics.jsonl and RUN/export.

    Args:
        config: Checked configuration.
        init: Export to start from; with `scratch` only its architecture is used; None = the
            config's own `model` section.
        scratch: Start from random weights (always so without `init`).
    Returns:
        run, export, best_step, r2_val, steps, seconds.
    """
    run = Path(config.run.dir) / config.run.name
    if run.exists() and any(run.iterdir()):
        raise ResumeMismatch(f"{run}: the run exists; choose another run.name or remove it")
    data = read_fit_data(config)
    model = start_model(config, init, scratch)
    if init and read_normalisation(init)["bin_size_ms"] != data.manifest.bin_size_ms:
        raise BadInput(
            f"{init} was trained on bins of {read_normalisation(init)['bin_size_ms']:g} ms, "
            f"{config.data.corpus} has {data.manifest.bin_size_ms:g}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    layout = Layout.of(data.session, model.config)
    run.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    log.say(
        f"run {run}: from {'scratch' if scratch or not init else init}, session {data.session.id}, "
        f"{sum(map(len, data.first))} bins to fit, {sum(map(len, data.last))} held back"
    )
    with (run / "metrics.jsonl").open("w") as file:

        def write(values: dict) -> None:
            file.write(json.dumps(values) + "\n")
            file.flush()

        best, weights = fit(config, model, layout, data, device, write)
    storage.write_json(run / "config.json", config.model_dump(mode="json"))
    trained = {
        "run": config.run.name,
        "step": best["step"],
        "epochs": 0.0,
        "corpus": data.manifest.fingerprint,
        "session": data.session.id,
    }
    if init and not scratch:
        trained["init"] = read_export_config(init)["trained"]
    described = describe_export(model.config, weights, "fp32", trained)
    norms = normalisation(data.manifest, [data.session])
    write_export(run / "export", weights, described, norms)
    return {
        "run": str(run),
        "export": str(run / "export"),
        "best_step": best["step"],
        "r2_val": best["r2_val"],
        "steps": config.train.steps,
        "seconds": round(time.perf_counter() - began, 1),
    }


def start_model(config: TuneConfig, init: str | None, scratch: bool) -> NDT3:
    """The model to fit: an export's weights, or random ones that depend on the seed alone."""
    if init and not scratch:
        return load_model(init, dropout=config.train.dropout).float()
    if init:
        values = read_export_config(init)["model"]
    elif config.model:
        values = config.model.model_dump()
    else:
        raise BadInput(
            "nothing to start from: give --init EXPORT, or a config with a model section"
        )
    model = check(ModelConfig, {**values, "dropout": config.train.dropout}, init or "model")
    torch.manual_seed(seed_of("weights", config.run.seed))
    return NDT3(model)


def fit(
    config: TuneConfig,
    model: NDT3,
    layout: Layout,
    data: FitData,
    device: torch.device,
    write: Callable[[dict], None],
) -> tuple[dict, dict[str, torch.Tensor]]:
    """The training loop; returns the best score on the held-back part and its fp32 weights."""
    optimizer = PlainOptimizer(model, config.optim, config.train.precision)
    truth = np.concatenate([r.covariates for r in data.last])
    best: dict = {"r2_val": -np.inf, "step": 0}
    weights = optimizer.snapshot()
    steps = range(1, config.train.steps + 1)
    for step in log.progress(steps, "fine-tune", total=config.train.steps):
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
        values = {
            "step": step,
            "loss": float(out.spike_sum) / num_spikes
            + float(out.covariate_sum) / max(num_covariates, 1),
            "loss_covariates": float(out.covariate_sum) / max(num_covariates, 1),
            "grad_norm": norm,
        }
        if step % config.train.eval_every == 0 or step == config.train.steps:
            model.eval()
            decoded = [decode(model, r, layout, data.window, STRIDE) for r in data.last]
            values["r2_val"] = scores(truth, np.concatenate(decoded))["r2"]
            log.say(f"step {step}  loss {values['loss']:.4f}  r2_val {values['r2_val']:.4f}")
            if values["r2_val"] > best["r2_val"]:
                best, weights = values, optimizer.snapshot()
        write(values)
    return best, weights

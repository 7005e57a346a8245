"""Fine-tune an export on a session, or several, in a single process, or train it from scratch.

The loop is that of a pretraining (`train.loop`) behind an engine of one process. Each step draws
windows at random starts inside the fit splits; the last part of each is held back and decoded with
a sliding context to choose the best step. One that was killed goes on with the same command.
"""

import copy
import math
import time
from pathlib import Path

import torch

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.steps import newest, remove_remnants
from ndt3_dist.data.order import Cursor
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.evaluate.session import seen_lines
from ndt3_dist.model.load import read_normalisation
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.tune.alone import restore, train_alone
from ndt3_dist.tune.as_run import loop_config
from ndt3_dist.tune.draws import Draws
from ndt3_dist.tune.folder import TuneFolder
from ndt3_dist.tune.held_back import HeldBack
from ndt3_dist.tune.joint import Joint, read_joint
from ndt3_dist.tune.lora import merge
from ndt3_dist.tune.parts import rate_scales
from ndt3_dist.tune.transfer import start_model
from ndt3_dist.tune.tune_config import TuneConfig
from ndt3_dist.tune.tuned import write_tuned
from ndt3_dist.tune.wise import Weights, best_alpha, between


def finetune(config: TuneConfig, init: str | None, scratch: bool = False, until: int = 0) -> dict:
    """Fit a decoder; writes RUN/metrics.jsonl (a refit RUN/refit/metrics.jsonl) and RUN/export.

    Args:
        init: Export to start from; with `scratch` only its architecture is used; None = the
            config's own `model` section.
        scratch: Start from random weights (always so without `init`).
        until: Stop behind this step, saved, as if asked to; 0 = go to the end.
    Returns:
        run, export, best_step, metric (what chose it), score (of the held-back part), r2_val (NaN
        where covariates are not looked at), by_session (the score of each, where there are
        several), wise (the share of the way that was taken; None = all), steps, seconds, and
        stopped: who was asked to end it before its end, in which case there is no export yet.
    """
    path = Path(config.run.dir) / config.run.name
    began_with = None if scratch else init
    if config.train.wise and not began_with:
        raise BadInput("train.wise goes from an export's weights; give --init, without --scratch")
    data = read_joint(config, began_with)
    with log.waiting(f"loading {init}" if init else "making the model"):
        model, new = start_model(config, init, scratch, data.all_sessions)
    if init and read_normalisation(init)["bin_size_ms"] != data.manifest.bin_size_ms:
        raise BadInput(
            f"{init} was trained on bins of {read_normalisation(init)['bin_size_ms']:g} ms, "
            f"{config.data.corpus} has {data.manifest.bin_size_ms:g}"
        )
    data.check(model.config)
    for session in data.sessions if began_with else []:
        for line in seen_lines(str(init), data.manifest, session, "test"):
            log.warn(line)
    weights = storage.sha256_file(Path(init) / "model.safetensors") if init else ""
    begun = {"from": weights, "scratch": scratch, "corpus": data.manifest.fingerprint}
    if data.replayed:
        begun["replayed"] = data.replayed.corpus.manifest.fingerprint
    with TuneFolder(path, {**config.model_dump(mode="json"), "begun": begun}) as folder:
        return fit_and_export(config, began_with, model, new, data, folder, until)


def fit_and_export(
    config: TuneConfig,
    init: str | None,
    model: NDT3,
    new: set[str],
    data: Joint,
    folder: TuneFolder,
    until: int = 0,
) -> dict:
    """What `finetune` does once its folder is open; `init` is None from scratch."""
    path, began = folder.path, time.perf_counter()
    say_what_is_fitted(config, init, data, path)
    scale = config.lora.alpha / max(config.lora.rank, 1)
    decoder = NDT3(model.config).eval()
    before: Weights = {}
    if config.train.wise:
        merged = merge({n: p.detach() for n, p in model.named_parameters()}, scale)
        before = {name: weight.clone() for name, weight in merged.items() if name not in new}
    refit = config.train.refit and config.train.steps
    start = copy.deepcopy(model) if refit else None
    if config.train.steps:
        best, weights, stopped = fit(config, model, new, data, config.train.steps, path, until)
    else:
        weights = {name: p.detach() for name, p in model.named_parameters()}
        best, stopped = Best(config.metric), ""
    fields = {"run": str(path), "best_step": best.step, "metric": config.metric, "wise": None}
    fields |= {"by_session": by_session(path, best), "steps": config.train.steps}
    score, wise = best.value, None
    decoder.to(next(model.parameters()).device)
    if config.train.wise and not stopped:
        held = HeldBack(data.fitted, config.has_labels), config.metric
        alphas = config.train.wise
        wise, found = best_alpha(decoder, before, merge(weights, scale), alphas, *held)
        score, fields["wise"] = found[config.metric], wise
        fields["by_session"] = of_sessions(found, config.metric)
    if start is not None and not stopped:
        log.say(f"again on all {data.bins('undivided')} bins, for {best.step} steps")
        _, weights, stopped = fit(config, start, new, data.whole(), best.step, path / "refit")
    fields |= {"stopped": stopped, "export": ""}
    if not stopped:
        after = merge(weights, scale)
        decoder.load_state_dict(after if wise is None else between(before, after, wise))
        r2 = write_tuned(folder.export, config, init, decoder, data, best.step, wise)
        score = score if r2 is None else r2
        folder.ended()
        fields["export"] = str(folder.export)
    r2_val = score if config.has_labels else math.nan
    seconds = round(time.perf_counter() - began, 1)
    return {**fields, "score": score, "r2_val": r2_val, "seconds": seconds}


def say_what_is_fitted(config: TuneConfig, init: str | None, data: Joint, path: Path) -> None:
    """The first line of a run."""
    bins, held = data.bins("first"), data.bins("last")
    split = f"{bins} bins to fit, {held} held back"
    covariates = dict.fromkeys(c.name for s in data.sessions for c in s.covariates)
    several = f"{len(data.sessions)} sessions " if len(data.sessions) > 1 else "session "
    log.say(
        f"run {path}: from {init or 'scratch'}, {several}{data.names} ({', '.join(covariates)}), "
        f"{split if config.train.steps else f'{bins + held} bins to fit'}"
    )
    if data.replayed:
        log.say(
            f"{data.weight:.0%} of the windows are of {len(data.replayed.sessions)} earlier "
            f"sessions of {data.replayed.corpus.path} ({len(data.replayed)} windows)"
        )
    if not config.has_labels:
        log.say("no covariate is looked at: spikes alone fit it and choose its step")


def by_session(path: Path, best: Best) -> dict[str, float]:
    """The score of each session at the best step; none where there is one session."""
    lines = read_metrics(path) if best.step else []
    return next((of_sessions(m, best.metric) for m in lines if m["step"] == best.step), {})


def of_sessions(scores: dict[str, float], metric: str) -> dict[str, float]:
    """Of scores, those of single sessions in a metric."""
    start = f"{metric}/"
    return {k.removeprefix(start): v for k, v in scores.items() if k.startswith(start)}


def fit(
    config: TuneConfig,
    model: NDT3,
    new: set[str],
    data: Joint,
    steps: int,
    path: Path,
    until: int = 0,
) -> tuple[Best, dict[str, torch.Tensor], str]:
    """Train, from the newest checkpoint of a folder where it has one.

    Args:
        model: Moved to the device and trained in place.
        new: Names of its parameters that learn at the full rate.
        data: Where nothing is held back, nothing is scored and the last step counts.
        steps: Steps to make, unless patience ends before.
        path: Where metrics and checkpoints go.
        until: As in `finetune`.
    Returns:
        The best score on the held-back part and its fp32 weights; who asked to stop before the end.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    as_run = loop_config(config, model, steps, data.is_scored, path)
    scales, seed = rate_scales(model, config.optim.layer_decay, new), config.run.seed
    engine = PlainEngine(model, as_run.optim, config.train.precision, seed, device, scales)
    start = newest(path, log.warn)
    state = RunState(Best(config.metric))
    if start:
        state = RunState.of(config.metric, start.meta, Cursor(**start.stream["place"]))
        restore(engine, start, bool(state.best.step))
        log.say(f"{path}: goes on behind step {state.step}")
    remove_remnants(path)
    stream = Draws(data, model, config.train.batch, seed, state.cursor)
    validation = HeldBack(data.fitted, config.has_labels) if data.is_scored else None
    stopped = train_alone(as_run, path, engine, stream, validation, state, until)
    if state.skipped and not stopped:
        raise Diverged(
            f"run {config.run.name}: its last {state.skipped} steps had no finite loss and "
            f"gradient; lower optim.lr ({config.optim.lr:g})"
        )
    if validation and not state.best.step and not stopped:
        raise BadInput(
            f"session {data.names}: {config.metric} of the held-back part was never a number; its "
            f"{'covariates' if config.has_labels else 'counts'} are constant there, choose another "
            "data.val_fraction"
        )
    return state.best, engine.best or engine.optimizer.snapshot(), stopped

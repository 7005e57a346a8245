"""Fine-tune an export on one session in a single process, or train the same model from scratch.

The loop is that of a pretraining (`train.loop`) behind an engine of one process. Each step draws
windows at random starts inside the fit split; the last part of the split is held back and decoded
with a sliding context to choose the best step. One that was killed goes on with the same command.
"""

import contextlib
import copy
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from ndt3_dist import log, storage
from ndt3_dist.checkpoint import lineage
from ndt3_dist.checkpoint.export import describe_export, normalisation, write_export
from ndt3_dist.checkpoint.steps import Checkpoint, newest, remove_remnants
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.data.order import Cursor
from ndt3_dist.engines.phases import Phases
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.evaluate.session import seen_lines
from ndt3_dist.model.load import read_export_config, read_normalisation
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.train.loop import Loop
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import gather
from ndt3_dist.train.run import Run
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.train.stop import StopSignal
from ndt3_dist.train.watch import RankWatch
from ndt3_dist.tune.closed_form import fit_readout
from ndt3_dist.tune.draws import Draws
from ndt3_dist.tune.fit_data import FitData, read_fit_data
from ndt3_dist.tune.folder import TuneFolder
from ndt3_dist.tune.held_back import HeldBack
from ndt3_dist.tune.lora import merge
from ndt3_dist.tune.parts import rate_scales
from ndt3_dist.tune.transfer import start_model
from ndt3_dist.tune.tune_config import TuneConfig

SAVE_EVERY_S = 300.0
"""Least time between two checkpoints: what a kill may cost. Shorter fine-tunes save nothing."""


def finetune(config: TuneConfig, init: str | None, scratch: bool = False, until: int = 0) -> dict:
    """Fit a decoder; writes RUN/metrics.jsonl (a refit RUN/refit/metrics.jsonl) and RUN/export.

    Args:
        init: Export to start from; with `scratch` only its architecture is used; None = the
            config's own `model` section.
        scratch: Start from random weights (always so without `init`).
        until: Stop behind this step, saved, as if asked to; 0 = go to the end.
    Returns:
        run, export, best_step, metric (what decided it) and best (its value), r2_val (the same
        where that is R2, else NaN), steps, seconds, and stopped: who was asked to end it before its
        end, in which case there is no export yet.
    """
    path = Path(config.run.dir) / config.run.name
    data = read_fit_data(config)
    with log.waiting(f"loading {init}" if init else "making the model"):
        model, new = start_model(config, init, scratch, data.session)
    if init and read_normalisation(init)["bin_size_ms"] != data.manifest.bin_size_ms:
        raise BadInput(
            f"{init} was trained on bins of {read_normalisation(init)['bin_size_ms']:g} ms, "
            f"{config.data.corpus} has {data.manifest.bin_size_ms:g}"
        )
    Layout.of(data.session, model.config)  # refuses what the model cannot hold
    if init and not scratch:
        for line in seen_lines(init, data.manifest, data.session, "test"):
            log.warn(line)
    weights = storage.sha256_file(Path(init) / "model.safetensors") if init else ""
    begun = {"from": weights, "scratch": scratch, "corpus": data.manifest.fingerprint}
    with TuneFolder(path, {**config.model_dump(mode="json"), "begun": begun}) as folder:
        init = None if scratch else init
        return fit_and_export(config, init, model, new, data, folder, until)


def fit_and_export(
    config: TuneConfig,
    init: str | None,
    model: NDT3,
    new: set[str],
    data: FitData,
    folder: TuneFolder,
    until: int = 0,
) -> dict:
    """What `finetune` does once its folder is open; `init` is None from scratch."""
    path, began = folder.path, time.perf_counter()
    bins, held = sum(map(len, data.first)), sum(map(len, data.last))
    split = f"{bins} bins to fit, {held} held back"
    log.say(
        f"run {path}: from {init or 'scratch'}, session {data.session.id} "
        f"({', '.join(c.name for c in data.session.covariates)}), "
        f"{split if config.train.steps else f'{bins + held} bins to fit'}"
    )
    refit = config.train.refit and config.train.steps
    start = copy.deepcopy(model) if refit else None
    if config.train.steps:
        best, weights, stopped = fit(config, model, new, data, config.train.steps, path, until)
    else:
        weights = {name: p.detach() for name, p in model.named_parameters()}
        best, stopped = Best(metric_of(model.config)), ""
    if start is not None and not stopped:
        log.say(f"again on all {sum(map(len, data.undivided))} bins, for {best.step} steps")
        _, weights, stopped = fit(config, start, new, data.whole(), best.step, path / "refit")
    r2 = best.value if best.metric == "val_r2" else math.nan
    fields = {"run": str(path), "best_step": best.step, "r2_val": r2}
    fields |= {"metric": best.metric, "best": best.value}
    fields |= {"steps": config.train.steps, "stopped": stopped}
    if stopped:
        return {**fields, "export": "", "seconds": round(time.perf_counter() - began, 1)}
    weights = merge(weights, config.lora.alpha / max(config.lora.rank, 1))
    parent = read_export_config(init) if init else None
    stages = lineage.of_export(parent) if parent else []
    stages.append(lineage.stage(data.manifest, [data.session], config.data.fit, steps=best.step))
    trained = {
        "run": config.run.name,
        "step": best.step,
        "corpus": data.manifest.fingerprint,
        "session": data.session.id,
        "lineage": stages,
    }
    if parent:
        trained["init"] = {k: v for k, v in parent["trained"].items() if k != "lineage"}
    if config.train.refit:
        trained["refit"] = True
    decoder = NDT3(model.config).to(next(model.parameters()).device)
    decoder.load_state_dict(weights)
    readout, r2 = fit_readout(decoder, data, config.readout)
    if r2 is not None:
        fields["r2_val"] = fields["best"] = r2
    described = describe_export(model.config, weights, "fp32", trained)
    norms = normalisation(data.manifest, [data.session], model.config.context)
    write_export(folder.export, weights, described, norms, readout)
    folder.ended()
    seconds = round(time.perf_counter() - began, 1)
    return {**fields, "export": str(folder.export), "seconds": seconds}


def fit(
    config: TuneConfig,
    model: NDT3,
    new: set[str],
    data: FitData,
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
    as_run = loop_config(config, model, steps, bool(data.last), path)
    scales, seed = rate_scales(model, config.optim.layer_decay, new), config.run.seed
    engine = PlainEngine(model, as_run.optim, config.train.precision, seed, device, scales)
    start = newest(path, log.warn)
    metric = metric_of(model.config)
    state = RunState(Best(metric))
    if start:
        state = RunState.of(metric, start.meta, Cursor(**start.stream["place"]))
        restore(engine, start, bool(state.best.step))
        log.say(f"{path}: goes on behind step {state.step}")
    remove_remnants(path)
    stream = Draws(data, model, config.train.batch, seed, state.cursor)
    stop = StopSignal(as_run.checkpoint.stop_within_s)
    with one_process(device) as watch:
        shapes = {name: list(m.shape) for name, m in engine.optimizer.trained().items()}
        writer = Writer(path, 0, 1, gather, background=False)
        validation = HeldBack(data, model) if data.last else None
        parts = engine, stream, validation, writer, stop, watch
        run = Run(as_run, str(path), *parts, shapes, keep_best=engine.keep_best)
        run.save_after_s, run.until = SAVE_EVERY_S, until
        try:
            Loop(run, state).go()
        finally:
            stop.close()
    if state.skipped and not stop.agreed:
        raise Diverged(
            f"run {config.run.name}: its last {state.skipped} steps had no finite loss and "
            f"gradient; lower optim.lr ({config.optim.lr:g})"
        )
    if validation and not state.best.step and not stop.agreed:
        raise BadInput(
            f"session {data.session.id}: {metric} of the held-back part was never a number; its "
            f"{'covariates are constant' if metric == 'val_r2' else 'channels are silent'} there, "
            "choose another data.val_fraction"
        )
    return state.best, engine.best or engine.optimizer.snapshot(), stop.agreed


def restore(engine: PlainEngine, start: Checkpoint, has_best: bool) -> None:
    """Take up a checkpoint, the best weights so far among it."""
    engine.fill(start.read, start.meta["adam_step"])
    engine.refresh()
    if has_best:
        engine.keep_best()
        for name, master in engine.optimizer.trained().items():
            kept = start.read(name, 0, master.numel(), (engine.BEST,))[engine.BEST]
            engine.best[name] = kept.view_as(master).to(master.device)


def metric_of(model: ModelConfig) -> str:
    """What decides the best step: R2, or where covariates cost nothing how well counts are told."""
    return "val_r2" if model.covariate_weight else "val_bits_per_spike"


def loop_config(
    config: TuneConfig, model: NDT3, steps: int, is_scored: bool, path: Path
) -> PretrainConfig:
    """The settings of a fine-tune in the words of the loop."""
    train, optim = config.train, config.optim.model_dump(exclude={"layer_decay"})
    metric = metric_of(model.config)
    scored = {"every_steps": train.eval_every, "patience": train.patience, "metric": metric}
    return PretrainConfig.model_validate(
        {
            "run": {"dir": str(path.parent), "name": path.name, "seed": config.run.seed},
            "data": {"corpus": config.data.corpus},
            "model": model.config,
            "optim": optim,
            "train": {
                "epochs": steps,
                "global_batch": 1,
                "precision": train.precision,
                "max_skipped": train.max_skipped,
            },
            "validation": scored if is_scored else {},
            "checkpoint": {"every_steps": 1 << 30, "keep_last": 1},
            "log": config.log.model_dump(),
        }
    )


@contextlib.contextmanager
def one_process(device: torch.device) -> Iterator[Any]:
    """A job of one rank, for the loop's collectives; gives the watch of its ranks."""
    kinds = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(kinds, store=HashStore(), rank=0, world_size=1)
    watch = RankWatch(0, [socket.gethostname()], Phases(), HashStore(), math.inf)
    try:
        yield watch
    finally:
        watch.close()
        dist.destroy_process_group()

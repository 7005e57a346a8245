"""Train an encoder, and train it again from its initial weights on everything.

A run's folder has the config, the initial weights, metrics of each step, and at its end an export
with the score of each held-out parcel beside it. `retrain` begins with the same initial weights and
takes as many epochs as the best one had, with the held-out clips among the others. A run that was
killed goes on with the same command.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.checkpoint.steps import newest, remove_remnants
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.config import load_config
from ndt3_dist.data.order import Cursor, seed_of
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.model.load import load_model
from ndt3_dist.tasks.fmri.clips.bold_runs import BoldRuns
from ndt3_dist.tasks.fmri.clips.clip_source import (
    Clip,
    ClipSource,
    CorpusSource,
    TreeSource,
    hold_out,
    matches,
)
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree
from ndt3_dist.tasks.fmri.encoders.build import build
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.clip_steps import ClipSteps
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.encoders.held_out import METRIC, EpochWeights, HeldOut
from ndt3_dist.tasks.fmri.encoders.lag_ridge import LagRidge, fit_ridge
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.train.loop import Loop
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import gather
from ndt3_dist.train.run import Run
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.train.stop import StopSignal
from ndt3_dist.tune.finetune import SAVE_EVERY_S, one_process, restore
from ndt3_dist.tune.folder import TuneFolder

CONFIG, INITIAL, SCALES = "fmri.yaml", "initial.safetensors", "scales.npz"
VAL, RESULT, PENALTIES, RETRAIN = "val.npz", "result.json", "penalties.npz", "retrain"


def open_source(config: FmriConfig) -> ClipSource:
    """The clips that a config names."""
    data = config.data
    if data.corpus:
        return CorpusSource(data.corpus, data.subjects, data.exclude)
    with log.waiting("looking for clips"):
        tree = FeatureTree(data.features_dir, data.streams)
        return TreeSource(tree, BoldRuns(data.data_dir, data.subjects), data.exclude)


def device_of(config: FmriConfig) -> torch.device:
    """Raises BadInput where a GPU is asked for that is not there."""
    found = torch.cuda.is_available()
    if config.train.device == "cuda" and not found:
        raise BadInput("train.device is cuda, and torch sees no GPU here; say auto or cpu")
    return torch.device("cuda" if found and config.train.device != "cpu" else "cpu")


def train(config: FmriConfig, until: int = 0) -> dict[str, Any]:
    """Train with some clips held out; writes RUN/export and RUN/val.npz.

    Args:
        until: Stop behind this step, saved, as if asked to; 0 = go to the end.
    Returns:
        run, best_epoch, val_r, and stopped: who asked it to end before its end.
    """
    path, source = Path(config.run.dir) / config.run.name, open_source(config)
    first, held = hold_out(source.clips, config.data.val, config.data.val_run)
    for pattern in config.data.val:
        if not any(matches(clip, [pattern]) for clip in source.clips):
            log.warn(f"data.val: no clip or film {pattern}")
    with TuneFolder(path, {**config.model_dump(mode="json"), "begun": begun(source)}) as folder:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        storage.write_bytes(path / CONFIG, text.encode())
        scales = ClipScales.kept(source, path / SCALES, first, config.data.scale)
        model = initial(config, source, scales, path)
        log.say(describe(config, source, first, held, model))
        best, stopped = fit(config, model, scales, first, held, path, config.train.epochs, until)
        result = {"run": str(path), "best_epoch": best, "stopped": stopped}
        if stopped:
            return result
        model.eval()
        if held:
            found = HeldOut(scales, held).score(model.to(device_of(config)), device_of(config))
            result[METRIC] = found.value
            with storage.atomic_file(path / VAL) as f:
                np.savez(f, **{s: found.parcels_of(s) for s in found.by_parcel})  # type: ignore
        storage.write_json(path / RESULT, result)
        export(config, source, model, folder.export, best)
        folder.ended()
    return result


def has_ended(config: FmriConfig) -> bool:
    """Whether a config was trained already, to its end."""
    path = Path(config.run.dir) / config.run.name
    is_there = (path / RESULT).is_file() and (path / "export" / "config.json").is_file()
    return is_there and load_config(FmriConfig, path / CONFIG) == config


def retrain(run: str | Path, until: int = 0, **changed: Any) -> dict[str, Any]:
    """Train a run's model anew on all clips, for exactly its best number of epochs.

    Args:
        run: Folder of a run that has ended.
        changed: Fields of the section `log`, which change no weight.
    Returns:
        run, epochs, stopped.
    """
    path = Path(run)
    if not (path / RESULT).is_file():
        raise BadInput(f"{path}: no {RESULT}, so no run that has ended; `ndt3 fmri train` first")
    config = load_config(FmriConfig, path / CONFIG)
    config = config.model_copy(update={"log": config.log.model_copy(update=changed)})
    epochs, source = storage.read_json(path / RESULT)["best_epoch"], open_source(config)
    begin = {**config.model_dump(mode="json"), "begun": begun(source), "epochs": epochs}
    with TuneFolder(path / RETRAIN, begin) as folder:
        scales = ClipScales.kept(source, path / SCALES, (), config.data.scale)
        model = initial(config, source, scales, path)
        log.say(f"again on all {len(source.clips)} clips, for {epochs} epochs")
        _, stopped = fit(config, model, scales, source.clips, (), folder.path, epochs, until)
        result = {"run": str(folder.path), "epochs": epochs, "stopped": stopped}
        if not stopped:
            export(config, source, model.eval(), folder.export, epochs)
            folder.ended()
    return result


def begun(source: ClipSource) -> dict[str, Any]:
    """What the numbers of a run follow from besides its config."""
    clips = [[clip.id, clip.rows] for clip in source.clips]
    return {"clips": clips, "streams": dict(source.dims), "subjects": list(source.subjects)}


def initial(config: FmriConfig, source: ClipSource, scales: ClipScales, path: Path) -> Encoder:
    """The model as a run's first step finds it, made and kept where there is none yet."""
    torch.manual_seed(seed_of("initial", config.run.seed))
    model = build(config.model.options(source))
    with torch.no_grad():
        model.mean.copy_(torch.from_numpy(scales.mean))
        model.scale.copy_(torch.from_numpy(scales.scale))
    file = path / INITIAL
    if not file.exists():
        part = file.with_name(".initial.tmp")
        save_file(dict(model.named_parameters()), str(part))
        part.replace(file)
    model.load_state_dict(load_file(str(file)))
    return model


def describe(config: FmriConfig, source: ClipSource, first, held, model: Encoder) -> str:
    """What is trained on what, in a line."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = sum(c.rows for c in first), sum(c.rows for c in held)
    return (
        f"run {config.run.dir}/{config.run.name}: {config.model.kind}, {learned:,} parameters, "
        f"{len(source.dims)} streams of {sum(source.dims.values()):,} columns, "
        f"{len(source.subjects)} subjects; {len(first)} clips ({rows[0]} samples) to train on, "
        f"{len(held)} ({rows[1]}) held out"
    )


def fit(
    config: FmriConfig,
    model: Encoder,
    scales: ClipScales,
    first: Sequence[Clip],
    held: Sequence[Clip],
    path: Path,
    epochs: int,
    until: int = 0,
) -> tuple[int, str]:
    """Fill a model's weights; the best epoch (the last where nothing is held out), who stopped it.

    Args:
        path: Where metrics and checkpoints go; penalties of a ridge lie in the run's folder.
        epochs: To make; the learning rate falls over the config's.
    """
    if isinstance(model, LagRidge):
        file = (path if path.name != RETRAIN else path.parent) / PENALTIES
        known = dict(np.load(file, allow_pickle=False)) if file.exists() else None
        chosen = fit_ridge(model, scales, first, held, known)
        if known is None:
            with storage.atomic_file(file) as f:
                np.savez(f, **chosen)  # type: ignore[arg-type]
        return 1, ""
    device, seed = device_of(config), config.run.seed
    steps = ClipSteps(scales, model, first, config.train.batch, config.train.window, seed)
    as_run = loop_config(config, model, epochs, steps.steps_of_epoch, bool(held), path)
    engine = PlainEngine(model, as_run.optim, config.train.precision, seed, device)
    start, state = newest(path, log.warn), RunState(Best(METRIC))
    if start:
        state = RunState.of(METRIC, start.meta, Cursor(**start.stream["place"]))
        restore(engine, start, bool(state.best.step))
        steps.start = state.cursor
        log.say(f"{path}: goes on behind step {state.step}")
    remove_remnants(path)
    validation: Any = HeldOut(scales, held) if held else None
    average = path / "epochs"
    if config.train.average_from:
        from_epoch = max(1, round(config.train.average_from * epochs))
        validation = EpochWeights(validation, average, from_epoch, steps.steps_of_epoch)
    stop = StopSignal(as_run.checkpoint.stop_within_s)
    with one_process(device) as watch:
        shapes = {name: list(m.shape) for name, m in engine.optimizer.trained().items()}
        writer = Writer(path, 0, 1, gather, background=False)
        parts = engine, steps, validation, writer, stop, watch
        keep = engine.keep_best if held else None
        run = Run(as_run, str(path), *parts, shapes, keep_best=keep)
        run.save_after_s, run.until = SAVE_EVERY_S, until
        try:
            Loop(run, state).go()
        finally:
            stop.close()
    if stop.agreed:
        return 0, stop.agreed
    if state.skipped:
        raise Diverged(f"run {path}: no finite loss and gradient; lower optim.lr")
    if held and not state.best.step:
        raise BadInput(f"run {path}: no held-out clip could be scored")
    weights = (engine.best if held else {}) or engine.optimizer.snapshot()
    best = round(state.best.step / steps.steps_of_epoch) if held else epochs
    if config.train.average_from:
        files = sorted(average.glob("*.safetensors"))
        weights, best = mean_weights([load_file(str(f)) for f in files]), epochs
        for file in files:
            file.unlink()
    model.float().load_state_dict(weights)
    return best, ""


def mean_weights(every: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of several models' weights, summed in float64."""
    return {
        name: torch.stack([w[name].double() for w in every]).mean(0).float() for name in every[0]
    }


def loop_config(
    config: FmriConfig, model: Encoder, epochs: int, every: int, is_scored: bool, path: Path
) -> PretrainConfig:
    """The settings of a training in the words of the loop."""
    scored = {"every_steps": every, "patience": config.train.patience, "metric": METRIC}
    if not is_scored:
        scored["patience"] = 0
    optim = {**config.optim.model_dump(), "decay_epochs": config.train.epochs}
    return PretrainConfig.model_validate(
        {
            "run": {"dir": str(path.parent), "name": path.name, "seed": config.run.seed},
            "data": {"corpus": config.data.corpus},
            "model": {"build": "ndt3_dist.tasks.fmri.encoders.build:build"},
            "optim": optim,
            "train": {
                "epochs": epochs,
                "global_batch": 1,
                "precision": config.train.precision,
                "max_skipped": config.train.max_skipped,
            },
            "validation": scored,
            "checkpoint": {"every_steps": 1 << 30, "keep_last": 1},
            "log": config.log.model_dump(),
        }
    )


def export(config: FmriConfig, source: ClipSource, model: Encoder, out: Path, epochs: int) -> None:
    """Weights and what they are of; a half-written export does not load."""
    weights = {n: p.detach().float().cpu().contiguous() for n, p in model.named_parameters()}
    trained = {"run": config.run.name, "step": epochs, "epochs": epochs, "seed": config.run.seed}
    described = describe_export(config.model.options(source), weights, "fp32", trained)
    none = {"covariates": [], "channels": []}
    clips = {clip.id: none for clip in source.clips}
    write_export(
        out, weights, described, {"bin_size_ms": 1490.0, "window_bins": 0, "sessions": clips}
    )


def open_encoder(run: str | Path, device: torch.device | str = "cpu") -> Encoder:
    """The model of a run, retrained if that was done."""
    path = Path(run)
    for place in (path / RETRAIN / "export", path / "export"):
        if (place / "config.json").is_file():
            return load_model(place, device, build=build)
    raise BadInput(f"{path}: no export; expected the folder of a run that has ended")

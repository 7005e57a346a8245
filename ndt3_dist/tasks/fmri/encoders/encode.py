"""Train an encoder, and train it again from its initial weights on everything.

A run's folder has the config, the initial weights, metrics of each step, and at its end an export
with the score of each held-out parcel beside it. `retrain` begins with the same initial weights and
takes as many epochs as the best one had, with the held-out clips among the others. A run that was
killed goes on with the same command.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.config import load_config
from ndt3_dist.data.order import seed_of
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import load_model
from ndt3_dist.tasks.fmri.clips.bold_runs import BoldRuns
from ndt3_dist.tasks.fmri.clips.clip_source import (
    ClipSource,
    CorpusSource,
    TreeSource,
    hold_out,
    matches,
)
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree
from ndt3_dist.tasks.fmri.encoders.build import build
from ndt3_dist.tasks.fmri.encoders.clip_fit import RETRAIN, device_of, fit
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.encoders.held_out import METRIC, HeldOut
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.tune.folder import TuneFolder

CONFIG, INITIAL, SCALES = "fmri.yaml", "initial.safetensors", "scales.npz"
VAL, RESULT = "val.npz", "result.json"


def open_source(config: FmriConfig) -> ClipSource:
    """The clips that a config names."""
    data = config.data
    if data.corpus:
        return CorpusSource(data.corpus, data.subjects, data.exclude)
    with log.waiting("looking for clips"):
        tree = FeatureTree(data.features_dir, data.streams)
        return TreeSource(tree, BoldRuns(data.data_dir, data.subjects), data.exclude)


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

"""One training of an encoder on some clips, by the loop of all trainings in one process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.steps import newest, remove_remnants
from ndt3_dist.data.order import Cursor
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.tasks.fmri.clips.clip_source import Clip
from ndt3_dist.tasks.fmri.encoders.build import BUILD
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.clip_steps import ClipSteps
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.encoders.held_out import METRIC, EpochWeights, HeldOut
from ndt3_dist.tasks.fmri.encoders.lag_ridge import LagRidge, fit_ridge
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.tune.alone import restore, train_alone

PENALTIES, RETRAIN = "penalties.npz", "retrain"


def device_of(config: FmriConfig) -> torch.device:
    """Raises BadInput where a GPU is asked for that is not there."""
    found = torch.cuda.is_available()
    if config.train.device == "cuda" and not found:
        raise BadInput("train.device is cuda, and torch sees no GPU here; say auto or cpu")
    return torch.device("cuda" if found and config.train.device != "cpu" else "cpu")


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
    stopped = train_alone(as_run, path, engine, steps, validation, state, until, bool(held))
    if stopped:
        return 0, stopped
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
            "model": {"build": BUILD},
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

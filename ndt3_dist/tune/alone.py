"""The loop of a pretraining (`train.loop`) in one process: what small trainings have in common."""

import contextlib
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from ndt3_dist.checkpoint.steps import Checkpoint
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.engines.phases import Phases
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.train.loop import Loop
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.ranks import gather
from ndt3_dist.train.run import Run
from ndt3_dist.train.state import RunState
from ndt3_dist.train.stop import StopSignal
from ndt3_dist.train.watch import RankWatch

SAVE_EVERY_S = 300.0
"""Least time between two checkpoints: what a kill may cost. Shorter trainings save nothing."""


def restore(engine: PlainEngine, start: Checkpoint, has_best: bool) -> None:
    """Take up a checkpoint, the best weights so far among it."""
    engine.fill(start.read, start.meta["adam_step"])
    engine.refresh()
    if has_best:
        engine.keep_best()
        for name, master in engine.optimizer.trained().items():
            kept = start.read(name, 0, master.numel(), (engine.BEST,))[engine.BEST]
            engine.best[name] = kept.view_as(master).to(master.device)


def train_alone(
    config: PretrainConfig,
    path: Path,
    engine: PlainEngine,
    stream: Any,
    validation: Any,
    state: RunState,
    until: int = 0,
    keeps_best: bool = True,
) -> str:
    """Train from a state on, to the end or until it is asked to stop.

    Args:
        path: Where metrics and checkpoints go.
        stream: Its steps (`train.run.Steps`).
        validation: What scores it (`train.run.Validator`); None = nothing.
        until: Stop behind this step, saved, as if asked to; 0 = go to the end.
        keeps_best: Whether the engine keeps the weights of the best score.
    Returns:
        Who asked to stop before the end, or "".
    """
    stop = StopSignal(config.checkpoint.stop_within_s)
    try:
        with one_process(engine.device) as watch:
            shapes = {name: list(m.shape) for name, m in engine.optimizer.trained().items()}
            writer = Writer(path, 0, 1, gather, background=False)
            parts = engine, stream, validation, writer, stop, watch
            keep = engine.keep_best if keeps_best else None
            run = Run(config, str(path), *parts, shapes, keep_best=keep)
            run.save_after_s, run.until = SAVE_EVERY_S, until
            Loop(run, state).go()
    finally:
        stop.close()
    return stop.agreed


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

"""A fine-tune as the loop of a pretraining has it: its settings, its one rank, its restart."""

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
from ndt3_dist.engines.phases import Phases
from ndt3_dist.engines.plain import PlainEngine
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.watch import RankWatch
from ndt3_dist.tune.tune_config import TuneConfig


def restore(engine: PlainEngine, start: Checkpoint, has_best: bool) -> None:
    """Take up a checkpoint, the best weights so far among it."""
    engine.fill(start.read, start.meta["adam_step"])
    engine.refresh()
    if has_best:
        engine.keep_best()
        for name, master in engine.optimizer.trained().items():
            kept = start.read(name, 0, master.numel(), (engine.BEST,))[engine.BEST]
            engine.best[name] = kept.view_as(master).to(master.device)


def loop_config(
    config: TuneConfig, model: NDT3, steps: int, is_scored: bool, path: Path
) -> PretrainConfig:
    """The settings of a fine-tune in the words of the loop."""
    train, optim = config.train, config.optim.model_dump(exclude={"layer_decay"})
    scored = {"every_steps": train.eval_every, "patience": train.patience, "metric": config.metric}
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

"""What a training is made of: the parts that do not change while it goes on."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ndt3_dist.checkpoint.writer import Slices, Writer
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.stream import Rows, Share, Step
from ndt3_dist.engines.phases import Phases
from ndt3_dist.lease import Lease
from ndt3_dist.model.contract import Output, Target
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.stop import StopSignal
from ndt3_dist.train.watch import RankWatch


class Engine(Protocol):
    """A model and its optimiser on all ranks: DeepSpeed's, or plain PyTorch on one."""

    model: Any
    device: torch.device
    phases: Phases

    def micro_step(self, batch: Any, counts: list[int], key: tuple[int, int]) -> Output:
        """Forward and backward of one micro-batch; `key` decides what is drawn in it."""
        ...

    def accumulated(self) -> None:
        """A micro-batch that is not the last one of its step is done."""
        ...

    def step(self, lr: float, finite: bool = True) -> float:
        """Optimiser step; the gradient's norm before clipping. None where it is not finite."""
        ...

    def train(self) -> None: ...

    def evaluating(self) -> AbstractContextManager[None]: ...

    def forward(self, batch: Any) -> Output:
        """A forward pass alone; all ranks make as many."""
        ...

    def slices(self, kinds: tuple[str, ...] = ...) -> Slices:
        """This rank's part of the training state, by parameter and first flat element."""
        ...

    def adam_step(self) -> int: ...

    def fill(self, read: Callable[[str, int, int], dict[str, torch.Tensor]], step: int) -> None:
        """Load this rank's part; all ranks call `refresh` after it."""
        ...

    def refresh(self) -> None:
        """Let the weights that the model computes with follow the masters."""
        ...


class Steps(Protocol):
    """Where global steps come from: a corpus in order, or windows drawn from one session."""

    rank: int
    world_size: int
    start: Cursor
    datasets: list[str]
    fingerprint: str

    def steps(self, cursor: Cursor, share: Share) -> Iterator[Step]: ...

    def epochs(self, cursor: Cursor) -> float:
        """Passes before a cursor: what schedules run in."""
        ...

    def steps_in(self, epochs: float) -> float:
        """About how many steps so many passes take."""
        ...

    def state(self, cursor: Cursor) -> dict:
        """What a checkpoint keeps of a cursor."""
        ...

    def names(self, rows: Rows) -> list[str]:
        """The windows of some rows, for people."""
        ...

    def datasets_of(self, numbers: np.ndarray) -> np.ndarray:
        """Index of each sample's dataset in `datasets`, (samples,)."""
        ...

    def counts_of(self, numbers: np.ndarray) -> np.ndarray:
        """What each target's loss of some samples is counted by, (samples, targets)."""
        ...

    def over_represented(self, rows: Rows) -> list[tuple[str, int, float]]:
        """(session, windows among these, windows expected), the most surprising first."""
        ...


class Validator(Protocol):
    def scores(self, engine: Any, device: torch.device) -> dict[str, float]:
        """Metrics of held-out data by name, the same on all ranks."""
        ...


@dataclass
class Run:
    """A training.

    Attributes:
        config: Its settings.
        folder: Where its files go.
        engine: Steps the weights.
        stream: Gives the data.
        validation: Scores held-out data; None where there is none.
        writer: Of checkpoints.
        stop: Whether it is asked to end.
        watch: Of ranks that are slow.
        shapes: Of each parameter by name.
        renewed: Whether it goes on with other data than that of its checkpoint.
        keep_best: Remembers the weights of the best step; None = a checkpoint does.
        save_after_s: Also save after so long; for one process, whose clock is its own.
        until: Stop behind this step, saved, as a signal would; 0 = go to the end.
        lease: Of the folder, which rank 0 holds; None = nobody else writes there.
        before_commit: What rank 0 writes besides metrics before a checkpoint exists.
    """

    config: PretrainConfig
    folder: str
    engine: Engine
    stream: Steps
    validation: Validator | None
    writer: Writer
    stop: StopSignal
    watch: RankWatch
    shapes: dict[str, list[int]]
    renewed: bool = False
    keep_best: Callable[[], None] | None = None
    save_after_s: float = math.inf
    until: int = 0
    lease: Lease | None = None
    before_commit: Callable[[], None] | None = None

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.engine.model.targets

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.stream.rank == 0

"""What the rest asks of a model, NDT3 or a user's own: it counts, packs and computes.

A config names the function that builds it (`model.build: package.module:function`, called with the
config's section `model`). The order of the data, ranks, checkpoints and pages know the names of its
targets and vectors as long as these, and nothing else. docs/extend.md is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:  # an export loads without the corpus's code, a stream's process without torch
    import torch

    from ndt3_dist.shards.manifest import Session


@dataclass(frozen=True)
class Target:
    """One thing that a model learns to predict.

    Attributes:
        name: Its loss is `loss_NAME` in all that is reported.
        stream: Of a window, that holds the truth.
        loss: What the loss is, in words.
        weight: Of it in the sum that is minimised.
        metric: Import path of what validation scores it by (`evaluate.metrics`); "" = the loss
            alone.
    """

    name: str
    stream: str
    loss: str
    weight: float = 1.0
    metric: str = ""


class Output(NamedTuple):
    """What a forward pass gives.

    A tuple, and not a class of our own: DeepSpeed hangs its hooks on the tensors that it finds in
    tuples, lists and dicts, and without them bf16 gradients of a micro-batch are counted again in
    the next.

    Attributes:
        loss: Sum over targets of weight * sum / divisor, scalar; its gradient is the training's.
        sums: Of each target's loss over all that it is counted by, (targets,) detached.
        details: What the model's own `by_segment` and `predictions` need, detached.
    """

    loss: torch.Tensor
    sums: torch.Tensor
    details: dict[str, Any]


class Packing(Protocol):
    """Windows of a corpus as a model takes them; numpy alone, called from threads."""

    def check(self, sessions: list[int]) -> None:
        """Raises BadInput where the model cannot hold a session, by its row of the table."""
        ...

    def tokens(self, index: np.ndarray) -> np.ndarray:
        """Tokens of each window, (windows,) int64, from its index record alone."""
        ...

    def counts(self, index: np.ndarray) -> np.ndarray:
        """What each target's loss of each window is counted by, (windows, targets) int64."""
        ...

    def window(
        self, sample: dict[str, np.ndarray], session: int, draw: Callable[[], np.random.Generator]
    ) -> Any:
        """A window ready to be packed.

        Args:
            sample: Its streams by name.
            session: Row of the session table.
            draw: Makes the generator for whatever is drawn: of (seed, epoch, window) alone, so
                that neither ranks nor restarts change it.
        """
        ...

    def pack(self, windows: list[Any]) -> dict[str, np.ndarray]:
        """Arrays of a micro-batch, windows laid end to end."""
        ...


class Model(Protocol):
    """A torch.nn.Module with these besides its parameters. Built on the meta device, too."""

    targets: tuple[Target, ...]

    def packing(self, sessions: Sequence[Session]) -> Packing:
        """How windows of a corpus with these sessions are packed."""
        ...

    def batch(self, arrays: dict[str, np.ndarray], device: torch.device) -> Any:
        """What `forward` takes, on a device, of a `Packing`'s arrays."""
        ...

    def forward(self, batch: Any, *divisors: float) -> Output:
        """A micro-batch.

        Args:
            batch: From `batch`.
            divisors: Of each target: what its loss is counted by in the whole global step.
        """
        ...

    def by_segment(self, output: Output, batch: Any) -> torch.Tensor:
        """Sum of each target's loss over each window, (windows, targets) float64."""
        ...

    def predictions(self, output: Output, windows: list[Any]) -> list[dict[str, np.ndarray]]:
        """What was predicted of each window by target, as long as the target's stream in it."""
        ...

    def operations(self, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
        """Floating-point operations of a forward pass: all, and those that `recompute` repeats."""
        ...

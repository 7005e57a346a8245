"""Whether weights move at all: an optimiser that does nothing looks like one that has converged."""

import torch
import torch.distributed as dist

from ndt3_dist.checkpoint.steps import KINDS
from ndt3_dist.train import zero
from ndt3_dist.train.engine import Engine

SEEN = 64
"""Elements of each slice that are looked at."""


class Canary:
    """Compares a few elements of each of this rank's master weights with those of the last look.

    Attributes:
        since: Step of the last look at which some weight had moved.
    """

    def __init__(self, engine: Engine, step: int):
        self.engine, self.since = engine, step
        self.before = self._look()

    def moved(self, step: int) -> bool:
        """Whether any has moved on any rank; all ranks call it."""
        now = self._look()
        differs = torch.tensor(
            float(not torch.equal(now, self.before)), device=self.engine.deepspeed.device
        )
        dist.all_reduce(differs)
        if differs:
            self.before, self.since = now, step
        return bool(differs)

    def _look(self) -> torch.Tensor:
        slices = zero.local_slices(self.engine.deepspeed, KINDS[:1])
        found = [tensors["master"].detach().reshape(-1)[:SEEN] for *_, tensors in slices]
        return torch.cat(found).clone() if found else torch.zeros(0)

"""Whether a run is well: losses that leap or are no number, and weights that do not move."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from ndt3_dist.data.stream import Rows
from ndt3_dist.engines.phases import COMMUNICATION
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.train.run import Run
from ndt3_dist.train.step import Losses

ENOUGH = 20
"""Losses before which nothing is called a leap."""
DEVIATIONS = 6
"""Robust standard deviations above the median (OLMo-core's trainer takes 6 plain ones)."""
SEEN = 64
"""Elements of each slice of the weights that are looked at."""


def leaps(loss: float, last: Sequence[float]) -> bool:
    """Whether a loss lies far above the median of the last ones."""
    if not math.isfinite(loss) or len(last) < ENOUGH:
        return False
    before = np.array(last)
    median = float(np.median(before))
    spread = 1.4826 * float(np.median(np.abs(before - median)))
    return loss > median + DEVIATIONS * max(spread, 1e-3 * abs(median))


class Canary:
    """Compares a few elements of each of this rank's master weights with those of the last look.

    An optimiser that does nothing looks like one that has converged.

    Attributes:
        since: Step of the last look at which some weight had moved.
    """

    def __init__(self, engine, step: int):
        self.engine, self.since = engine, step
        self.before = self._look()

    def moved(self, step: int) -> bool:
        """Whether any has moved on any rank; all ranks call it."""
        now = self._look()
        differs = torch.tensor(float(not torch.equal(now, self.before)), device=self.engine.device)
        with self.engine.phases.at(COMMUNICATION):
            dist.all_reduce(differs)
        if differs:
            self.before, self.since = now, step
        return bool(differs)

    def _look(self) -> torch.Tensor:
        slices = self.engine.slices(("master",))
        found = [tensors["master"].detach().reshape(-1)[:SEEN] for *_, tensors in slices]
        return torch.cat(found).clone() if found else torch.zeros(0)


def skip_line(run: Run, step: int, losses: Losses, leapt: bool, rows: Rows) -> str:
    """What the log says of a step that was skipped.

    Args:
        losses: Of its micro-batches.
        leapt: Whether that is because its loss did.
        rows: Of all ranks.
    """
    totals, ranks = [sum(of_batch) for of_batch in losses.of_batches], run.stream.world_size
    bad = [m for m, loss in enumerate(totals) if not math.isfinite(loss)]
    where = "all losses are finite, the gradient is not"
    if leapt:
        where = f"its loss {math.fsum(totals):.4f} leaps above the last ones"
    if bad:
        which = ", ".join(f"{m} (rank {m % ranks})" for m in bad[:3])
        where = f"the loss is not finite in micro-batch {which}"
        rows = [row for row in rows if row[0] // run.config.train.micro_batch in bad]
    keys = run.stream.names(rows)
    return (
        f"step {step} is skipped, no weight moves: {where}; windows {', '.join(keys[:3])}"
        f"{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; "
        f"launch/replay.py --step {step} lists them"
    )


def leap_line(run: Run, step: int, loss: float, rows: Rows) -> str:
    """What the log says of a loss that leaps."""
    try:
        found = run.stream.over_represented(rows)
    except Ndt3DistError:  # an index that cannot be read now; no reason to end the run here
        found = []
    named = [
        f"{name} {windows} windows ({expected:.1f} expected)" for name, windows, expected in found
    ]
    return (
        f"loss {loss:.4f} at step {step} leaps above the last ones; most over-represented in it: "
        f"{', '.join(named) or 'no session'}; launch/replay.py --step {step} lists all its windows"
    )

"""Steps whose loss leaps or is no number, and the windows that they hold."""

import math
from collections import deque

import numpy as np

from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import Ndt3DistError

WINDOW = 100
"""Losses that a new one is compared to."""
ENOUGH = 20
"""Losses before which nothing is called a spike."""
DEVIATIONS = 6
"""Robust standard deviations above the median (OLMo-core's trainer takes 6 plain ones)."""

Rows = list[tuple[int, int, np.ndarray]]
"""Number in the step, epoch and sample numbers of each row."""


class SpikeWatch:
    """Compares each loss with the median of those before it.

    Attributes:
        losses: The last ones, oldest first; a checkpoint keeps them.
    """

    def __init__(self):
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def is_spike(self, loss: float) -> bool:
        """Whether a loss lies far above the median of the last ones, itself among the next."""
        if not math.isfinite(loss):
            return False
        last = np.array(self.losses)
        self.losses.append(loss)
        if len(last) < ENOUGH:
            return False
        median = float(np.median(last))
        spread = 1.4826 * float(np.median(np.abs(last - median)))
        return loss > median + DEVIATIONS * max(spread, 1e-3 * abs(median))


def skip_line(
    step: int, losses: list[float], spiked: bool, ranks: int, stream: Stream, rows: Rows
) -> str:
    """What the log says of a step that was skipped.

    Args:
        step: Its number.
        losses: Of each micro-batch.
        spiked: Whether that is because its loss leapt.
        ranks: That had a part in it.
        stream: What its rows are of.
        rows: Of all ranks.
    """
    bad = [m for m, loss in enumerate(losses) if not math.isfinite(loss)]
    where = "all losses are finite, the gradient is not"
    if spiked:
        where = f"its loss {math.fsum(losses):.4f} leaps above the last ones"
    if bad:
        told = ", ".join(f"{m} (rank {m % ranks})" for m in bad[:3])
        where = f"the loss is not finite in micro-batch {told}"
        rows = [row for row in rows if row[0] // stream.micro_batch in bad]
    keys = [stream.corpus.key(n) for *_, samples in rows for n in samples.tolist()]
    return (
        f"step {step} is skipped, no weight moves: {where}; windows {', '.join(keys[:3])}"
        f"{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; "
        f"launch/replay.py --step {step} lists them"
    )


def over_represented(stream: Stream, rows: Rows, count: int = 3) -> list[tuple[str, int, float]]:
    """Sessions with most windows in a step beyond their share of the data.

    Returns:
        (session, windows in the step, windows expected of it), most surprising first; only
        sessions with more than expected.
    """
    sessions = stream.corpus.manifest.sessions
    numbers = np.concatenate([samples for *_, samples in rows])
    found = np.bincount(stream.corpus.records(numbers)["session"], minlength=len(sessions))
    expected = stream.plan.sources.expected(stream.plan.shares) * len(numbers)
    excess = (found - expected) / np.sqrt(np.maximum(expected, 1e-9))
    order = [i for i in np.argsort(-excess, kind="stable")[:count] if found[i] > expected[i]]
    return [(sessions[i].id, int(found[i]), float(expected[i])) for i in order]


def spike_line(step: int, loss: float, stream: Stream, rows: Rows) -> str:
    """What the log says of a spike."""
    try:
        found = over_represented(stream, rows)
    except Ndt3DistError:  # an index that cannot be read now; no reason to end the run here
        found = []
    named = [
        f"{name} {windows} windows ({expected:.1f} expected)" for name, windows, expected in found
    ]
    return (
        f"loss {loss:.4f} at step {step} leaps above the last ones; most over-represented in it: "
        f"{', '.join(named) or 'no session'}; launch/replay.py --step {step} lists all its windows"
    )

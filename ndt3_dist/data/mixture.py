"""Sources by weight: which source each row is of, and which row of that source.

Rows of a mixture are dealt out in periods, within which every source comes as evenly as whole rows
allow; the rows of a source are those of its own order, one after the other.
"""

import heapq
from functools import lru_cache

import numpy as np

PERIOD = 65536
"""Rows after which a mixture repeats: shares are kept to one part in so many."""


@lru_cache(8)
def spread(counts: tuple[int, ...]) -> np.ndarray:
    """A sequence with counts[s] rows of each source s, none ever a whole row off its share.

    Each row of a source waits until the source is far enough behind its share; of those that have,
    the one that must come soonest is next. So no prefix of n rows holds more or less than
    n * share by one (R. Tijdeman, "The chairman assignment problem", Discrete Math. 32, 1980).

    Args:
        counts: Of each source; at least one is not 0.
    Returns:
        Source of each row, (sum of counts,).
    """
    total, twice = sum(counts), max(2 * len(counts) - 2, 1)
    source = np.repeat(np.arange(len(counts)), counts)
    which = np.concatenate([np.arange(n) for n in counts])  # of its source's rows
    own = np.repeat(counts, counts)
    first = -(-total * (1 + twice * which) // (twice * own))  # row, from 1, that it may be
    last = (twice - 1 + twice * which) / own  # by this, the soonest comes
    waiting = sorted(zip(first.tolist(), last.tolist(), source.tolist(), strict=True), reverse=True)
    ready, sequence = [], []
    for row in range(1, total + 1):
        while waiting and waiting[-1][0] <= row:
            heapq.heappush(ready, waiting.pop()[1:])
        sequence.append(heapq.heappop(ready)[1])
    return np.array(sequence)


def rows_of_period(weights: np.ndarray, per_row: np.ndarray) -> np.ndarray:
    """Rows of each source in a period: their shares in whole numbers.

    Args:
        weights: What a source is to have of all windows (or tokens, or hours), (sources,).
        per_row: Windows (or tokens, or hours) in a row of each source, (sources,).
    """
    rows = weights / per_row
    exact = rows / rows.sum() * PERIOD
    counts = np.maximum(np.floor(exact), exact > 0).astype(np.int64)  # a weight is never nothing
    for source in np.argsort(counts - exact, kind="stable")[: max(0, PERIOD - counts.sum())]:
        counts[source] += 1
    counts[np.argmax(counts)] -= counts.sum() - PERIOD
    return counts


class Mixture:
    """Which row of which source each row is, counted from some row on."""

    def __init__(self, counts: tuple[int, ...], begun: np.ndarray):
        """
        Args:
            counts: Rows of each source in a period.
            begun: Rows that each source had before, (sources,).
        """
        self.source, self.begun = spread(counts), begun
        self.whole = np.array(counts)
        self.nth = np.empty(len(self.source), np.int64)  # of its source's rows in a period
        for source in range(len(counts)):
            self.nth[self.source == source] = np.arange(counts[source])

    def row(self, number: int) -> tuple[int, int]:
        """Source of a row, and its number among the rows of that source."""
        periods, at = divmod(number, len(self.source))
        source = int(self.source[at])
        return source, int(self.begun[source] + periods * self.whole[source] + self.nth[at])

    def rows_before(self, number: int) -> np.ndarray:
        """Rows that each source has had before a row, (sources,)."""
        periods, at = divmod(number, len(self.source))
        held = np.bincount(self.source[:at], minlength=len(self.whole))
        return self.begun + periods * self.whole + held

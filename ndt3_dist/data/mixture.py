"""Sources by weight: which source each row is of, and which row of that source.

Rows of a mixture are dealt out in periods, within which every source comes as evenly as whole rows
allow. A step of a period is turned by a draw, so that sources do not stay on the same ranks; what
a slot of the step draws from is its own lane of the source, so that ranks read shards of their own.
"""

import heapq
from functools import cached_property, lru_cache

import numpy as np

from ndt3_dist.data.order import generator

PERIOD = 65536
"""Rows after which a mixture repeats, about: shares are kept to one part in so many."""
LONG = 256
"""Rows of an epoch that a lane of a source has at least."""
TURNS = 8
"""Turned steps of which the one is taken that keeps lanes together best."""


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


def rows_of_period(weights: np.ndarray, per_row: np.ndarray, batch: int) -> np.ndarray:
    """Rows of each source in a period: their shares in whole numbers.

    Args:
        weights: What a source is to have of all windows (or tokens, or hours), (sources,).
        per_row: Windows (or tokens, or hours) in a row of each source, (sources,).
        batch: Rows of a step; a period has whole steps.
    """
    period = batch * max(1, PERIOD // batch)
    rows = weights / per_row
    exact = rows / rows.sum() * period
    counts = np.maximum(np.floor(exact), exact > 0).astype(np.int64)  # a weight is never nothing
    for source in np.argsort(counts - exact, kind="stable")[: max(0, period - counts.sum())]:
        counts[source] += 1
    counts[np.argmax(counts)] -= counts.sum() - period
    return counts


class Mixture:
    """Sources, lanes and turns of the rows from some row on, counted from there.

    Where the lanes divide a step, a slot of the step always draws from the same lane of a source,
    so that ranks read shards of their own, and steps are turned so that no lane gets far ahead of
    others. Where they do not, each source has one lane.
    """

    def __init__(self, counts: tuple[int, ...], lanes: list[int], batch: int, key: tuple, begun):
        """
        Args:
            counts: Rows of each source in a period; whole steps in all.
            lanes: Of each source, 1 or divisors of `batch`.
            batch: Rows of a step.
            key: What draws follow from.
            begun: Turns that each lane of each source had before, (sources, most lanes).
        """
        self.counts, self.lanes, self.batch, self.key = counts, np.array(lanes), batch, key
        self.begun = begun

    @cached_property
    def _table(self):
        """Source, lane and turn of each row of a period; turns of each lane in a whole period."""
        period, most = sum(self.counts), self.begun.shape[1]
        sequence = spread(self.counts).reshape(-1, self.batch)  # (steps, batch)
        slots = np.arange(self.batch)
        draw = generator("mixture", *self.key)
        turned = (slots + draw.integers(0, self.batch, (len(sequence), TURNS, 1))) % self.batch
        source, ahead = np.empty_like(sequence), np.zeros((len(self.counts), most))
        for step, of_step in enumerate(sequence if most > 1 else ()):
            best = np.inf
            for tried in of_step[turned[step]]:
                had = ahead.copy()
                np.add.at(had, (tried, slots % self.lanes[tried]), 1)
                uneven = np.square(had).sum()  # least where the lanes of a source are alike
                if uneven < best:
                    best, source[step], after = uneven, tried, had
            # Only what lanes have beyond the others of their source is of interest.
            ahead = after - np.where(self._used, after, np.inf).min(1, keepdims=True)
            ahead[~self._used] = 0
        if most == 1:
            source = np.take_along_axis(sequence, turned[:, 0], 1)
        source = source.ravel()
        lane = np.tile(slots, len(sequence)) % self.lanes[source]
        which = source * most + lane
        order = np.argsort(which, kind="stable")
        whole = np.bincount(which, minlength=self.begun.size)
        turn = np.empty(period, np.int64)
        turn[order] = np.arange(period) - np.repeat(np.cumsum(whole) - whole, whole)
        return source, lane, turn, whole.reshape(self.begun.shape)

    @property
    def _used(self) -> np.ndarray:
        """Which lanes there are, (sources, most lanes) bool."""
        return np.arange(self.begun.shape[1]) < self.lanes[:, None]

    def row(self, number: int) -> tuple[int, int, int]:
        """Source, lane and turn of a row."""
        source, lane, turn, whole = self._table
        periods, at = divmod(number, len(source))
        where = int(source[at]), int(lane[at])
        return *where, int(self.begun[where] + periods * whole[where] + turn[at])

    def turns(self, number: int) -> np.ndarray:
        """Turns that each lane has had before a row, (sources, most lanes)."""
        source, lane, _, whole = self._table
        periods, at = divmod(number, len(source))
        turns = self.begun + periods * whole
        np.add.at(turns, (source[:at], lane[:at]), 1)
        return turns


def lanes_of(most: int, batch: int, epoch_rows: int) -> int:
    """Lanes of a source: those of the stream, or fewer where it has few rows; 1 where they do not
    divide a step."""
    if batch % most:
        return 1
    return max(
        n for n in range(1, most + 1) if most % n == 0 and (n == 1 or n * LONG <= epoch_rows)
    )

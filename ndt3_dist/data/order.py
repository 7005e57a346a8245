"""The order of the data: a pure function of (fingerprint, seed, position).

Samples lie in blocks, which never change: runs of whole shards. Those of a block are fitted into
rows together, first fit decreasing, so that a block has the same number of rows in every epoch. An
epoch draws an order of the blocks, and within each block of its samples and rows; end to end they
are one line of rows. `lanes` of equal length walk it side by side: row p of an epoch is the next of
lane p % lanes. So a step mixes as many blocks as there are lanes, and a rank whose rows are always
of the same lanes reads the shards of those alone.

Position is the global row number, counted over all epochs: ranks, workers and micro-batches only
divide what it says.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def generator(*what: object) -> np.random.Generator:
    """A random generator that depends on its arguments alone, on every machine."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))


def seed_of(*what: object) -> int:
    """A 63-bit seed that depends on its arguments alone, on every machine."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "little") >> 1


def _first_fit(lengths: np.ndarray, counts: np.ndarray, capacity: int) -> Iterator[np.ndarray]:
    """How many samples of each length every row takes, (rows so far,) for each length in turn.

    Samples of one length fill the first row that has room until it has none, so that a whole length
    is dealt out at once.
    """
    free = np.empty(0, np.int64)
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        room = free // length
        before = np.cumsum(room) - room
        take = np.clip(count - before, 0, room)
        left, per_row = count - int(take.sum()), capacity // length
        new = np.full(-(-left // per_row), per_row, np.int64)
        if len(new):
            new[-1] = left - per_row * (len(new) - 1)
        take = np.concatenate([take, new])
        free = np.concatenate([free, np.full(len(new), capacity, np.int64)]) - take * length
        yield take


def count_rows(lengths: np.ndarray, counts: np.ndarray, capacity: int) -> int:
    """Rows that `fit_rows` makes of so many samples of each length, longest first."""
    rows = 0
    for take in _first_fit(lengths, counts, capacity):
        rows = len(take)
    return rows


def fit_rows(tokens: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Fit samples into rows, first fit decreasing.

    Args:
        tokens: Tokens of each sample, (samples,), none above `capacity`.
        capacity: Row length in tokens.
    Returns:
        Sample numbers of each row; longest first, so that equal lengths lie side by side.
    """
    order = np.argsort(-tokens, kind="stable")
    lengths, counts = np.unique(tokens, return_counts=True)
    row_of = np.concatenate(
        [
            np.repeat(np.arange(len(take)), take)
            for take in _first_fit(lengths[::-1], counts[::-1], capacity)
        ]
        or [np.empty(0, np.int64)]
    )
    by_row = np.argsort(row_of, kind="stable")
    ends = np.cumsum(np.bincount(row_of)) if len(row_of) else np.empty(0, np.int64)
    return np.split(order[by_row], ends[:-1]) if len(ends) else []


@dataclass(frozen=True)
class Place:
    """Where a stream stands: the state that a checkpoint keeps.

    Attributes:
        position: Global number of the next row.
        samples_seen: Samples in all rows before.
    """

    position: int = 0
    samples_seen: int = 0


class Order:
    """Rows of any position.

    Attributes:
        epoch_rows: Rows of an epoch.
    """

    def __init__(
        self,
        fingerprint: str,
        seed: int,
        rows: np.ndarray,
        samples_of: Callable[[int], tuple[np.ndarray, np.ndarray]],
        row_tokens: int,
        lanes: int,
    ):
        """
        Args:
            fingerprint: Of the corpus.
            seed: Of the run.
            rows: Rows of each block, (blocks,).
            samples_of: Numbers and tokens of a block's samples, (samples,) each.
            row_tokens: Capacity of a row.
            lanes: Readers that walk the epoch side by side.
        """
        self.fingerprint, self.seed = fingerprint, seed
        self.rows, self.samples_of, self.row_tokens = rows, samples_of, row_tokens
        self.epoch_rows = int(rows.sum())
        self.lanes = min(lanes, self.epoch_rows)
        self.blocks_of = lru_cache(2)(self._blocks_of)
        # A lane that ends a block in one step begins the next in the same.
        self.rows_of = lru_cache(2 * self.lanes + 2)(self._rows_of)

    def row(self, position: int) -> tuple[int, np.ndarray]:
        """Epoch of a row, and its sample numbers."""
        epoch, p = divmod(position, self.epoch_rows)
        lane, step = p % self.lanes, p // self.lanes
        per_lane, longer = divmod(self.epoch_rows, self.lanes)
        place = lane * per_lane + min(lane, longer) + step
        blocks, ends = self.blocks_of(epoch)
        at = int(np.searchsorted(ends, place, "right"))
        block = int(blocks[at])
        return epoch, self.rows_of(epoch, block)[place - int(ends[at]) + int(self.rows[block])]

    def take(self, place: Place, count: int) -> tuple[list[tuple[int, np.ndarray]], Place]:
        """The next rows as (epoch, sample numbers), and the place after them.

        The last step of an epoch is filled from the next one.
        """
        taken = [self.row(place.position + i) for i in range(count)]
        seen = place.samples_seen + sum(len(samples) for _, samples in taken)
        return taken, Place(place.position + count, seen)

    def _blocks_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks of an epoch in order, and how many rows there are up to the end of each."""
        draw = generator("blocks", self.fingerprint, self.seed, epoch)
        blocks = draw.permutation(len(self.rows))
        return blocks, np.cumsum(self.rows[blocks])

    def _rows_of(self, epoch: int, block: int) -> list[np.ndarray]:
        """Sample numbers of each row of a block in an epoch."""
        numbers, tokens = self.samples_of(block)
        draw = generator("block", self.fingerprint, self.seed, epoch, block)
        order = draw.permutation(len(numbers))
        numbers, tokens = numbers[order], tokens[order]
        fitted = fit_rows(tokens, self.row_tokens)
        return [numbers[fitted[i]] for i in draw.permutation(len(fitted))]

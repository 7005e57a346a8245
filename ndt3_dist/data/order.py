"""The order of the data: a pure function of (fingerprint, seed, position).

Samples lie in blocks, which never change: runs of whole shards. Those of a block are fitted into
rows together by their lengths alone, so that a block has the same number of rows in every epoch. An
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


def fullest(lengths: list[int], counts: list[int], capacity: int) -> list[int]:
    """How many samples of each length make the fullest row that holds one of the longest.

    Args:
        lengths: Longest first.
        counts: Samples left of each length; of the longest, at least one.
        capacity: Row length in tokens.
    """
    # Bit s of reached[i]: some choice among the first i lengths has s tokens.
    reached, room = [1 << lengths[0]], (2 << capacity) - 1
    for i, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        sums = step = reached[-1]
        for _ in range(min(count - (i == 0), capacity // length)):
            step = (step << length) & room
            if not step:
                break
            sums |= step
        reached.append(sums)
        if sums >> capacity:
            break  # it cannot be fuller
    left, taken = reached[-1].bit_length() - 1, [0] * len(lengths)
    for i in reversed(range(len(reached) - 1)):
        while not reached[i] >> left & 1:
            left -= lengths[i]
            taken[i] += 1
    taken[0] += 1
    return taken


def row_kinds(
    lengths: np.ndarray, counts: np.ndarray, capacity: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Kinds of rows that hold so many samples of each length, fullest first around the longest.

    Args:
        lengths: Distinct, longest first, (lengths,), none above `capacity`.
        counts: Samples of each, (lengths,).
        capacity: Row length in tokens.
    Yields:
        Samples of each length in a row, (lengths,), and how many such rows there are.
    """
    left = counts.copy()
    while left.any():
        some = np.flatnonzero(left)
        taken = np.zeros_like(left)
        taken[some] = fullest(lengths[some].tolist(), left[some].tolist(), capacity)
        times = int((left[taken > 0] // taken[taken > 0]).min())
        left -= taken * times
        yield taken, times


def count_rows(lengths: np.ndarray, counts: np.ndarray, capacity: int) -> int:
    """Rows that `fit_rows` makes of so many samples of each length, longest first."""
    return sum(times for _, times in row_kinds(lengths, counts, capacity))


def fit_rows(tokens: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Fit samples into rows that are as full as what is left allows.

    Args:
        tokens: Tokens of each sample, (samples,), none above `capacity`.
        capacity: Row length in tokens.
    Returns:
        Sample numbers of each row; longest first, so that equal lengths lie side by side.
    """
    order = np.argsort(-tokens, kind="stable")
    lengths, counts = np.unique(tokens, return_counts=True)
    lengths, counts = lengths[::-1], counts[::-1]
    used, rows = np.cumsum(counts) - counts, []  # where each length's next sample lies in `order`
    for taken, times in row_kinds(lengths, counts, capacity):
        some = np.flatnonzero(taken)
        parts = [order[used[i] : used[i] + times * taken[i]].reshape(times, taken[i]) for i in some]
        rows.extend(np.concatenate(parts, axis=1))
        used[some] += times * taken[some]
    return rows


@dataclass(frozen=True)
class Cursor:
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
            rows: Rows of each block, (blocks,).
            samples_of: Numbers and tokens of a block's samples, (samples,) each.
            row_tokens: Capacity of a row.
            lanes: Readers that walk the epoch side by side.
        """
        self.fingerprint, self.seed = fingerprint, seed
        self.rows, self.samples_of, self.row_tokens = rows, samples_of, row_tokens
        self.epoch_rows = int(rows.sum())
        self.lanes = min(lanes, self.epoch_rows)
        # Of several threads one may plan what another plans too: the same, and rarely.
        self.blocks_of = lru_cache(2)(self._blocks_of)
        # A lane that ends a block in one step begins the next in the same.
        self.rows_of = lru_cache(2 * self.lanes + 2)(self._rows_of)

    def row(self, position: int) -> tuple[int, np.ndarray]:
        """Epoch of a row, and its sample numbers."""
        epoch, p = divmod(position, self.epoch_rows)
        lane, step = p % self.lanes, p // self.lanes
        per_lane, longer = divmod(self.epoch_rows, self.lanes)
        nth = lane * per_lane + min(lane, longer) + step
        blocks, ends = self.blocks_of(epoch)
        at = int(np.searchsorted(ends, nth, "right"))
        block = int(blocks[at])
        return epoch, self.rows_of(epoch, block)[nth - int(ends[at]) + int(self.rows[block])]

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

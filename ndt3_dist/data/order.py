"""The order of the data: a pure function of (fingerprint, seed, token counts, position).

An epoch is a permutation of the samples, cut into blocks; the samples of a block are fitted into
rows of `row_tokens` (first fit decreasing) and the rows shuffled. Position is the global row
number, counted over all epochs: ranks, workers and micro-batches only divide what it says.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput


def generator(*what: object) -> np.random.Generator:
    """A random generator that depends on its arguments alone, on every machine."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))


def seed_of(*what: object) -> int:
    """A 63-bit seed that depends on its arguments alone, on every machine."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "little") >> 1


def fit_rows(tokens: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Fit samples into rows, first fit decreasing.

    Args:
        tokens: Tokens of each sample, (samples,), none above `capacity`.
        capacity: Row length in tokens.
    Returns:
        Sample numbers of each row; longest first, so that equal lengths lie side by side.
    """
    order = np.argsort(-tokens, kind="stable")
    free = np.full(len(tokens), capacity, np.int64)
    row_of = np.empty(len(tokens), np.int64)
    for sample in order:
        row = int(np.argmax(free >= tokens[sample]))
        row_of[sample] = row
        free[row] -= tokens[sample]
    rows: list[list[int]] = [[] for _ in range(int(row_of.max(initial=-1)) + 1)]
    for sample in order:
        rows[row_of[sample]].append(int(sample))
    return [np.array(r) for r in rows]


@dataclass(frozen=True)
class Order:
    """Rows of any epoch of one corpus.

    Attributes:
        fingerprint: Of the corpus.
        seed: Of the run.
        tokens: Tokens of each sample, (samples,).
        row_tokens: Capacity of a row.
        block_samples: Samples that are fitted together.
    """

    fingerprint: str
    seed: int
    tokens: np.ndarray
    row_tokens: int
    block_samples: int

    def __post_init__(self):
        longest = int(self.tokens.max())
        if longest > self.row_tokens:
            raise BadInput(
                f"a window of {longest} tokens does not fit a row; "
                f"data.row_tokens is {self.row_tokens}: raise it"
            )

    def epoch_rows(self, epoch: int) -> list[np.ndarray]:
        """All rows of an epoch in order: sample numbers of each."""
        draw = generator("order", self.fingerprint, self.seed, epoch)
        samples = draw.permutation(len(self.tokens))
        rows: list[np.ndarray] = []
        for start in range(0, len(samples), self.block_samples):
            block = samples[start : start + self.block_samples]
            fitted = [block[row] for row in fit_rows(self.tokens[block], self.row_tokens)]
            rows += [fitted[i] for i in draw.permutation(len(fitted))]
        return rows


@dataclass(frozen=True)
class Place:
    """Where a stream stands: the state that a checkpoint keeps.

    Attributes:
        position: Global number of the next row.
        epoch: Epoch of that row.
        epoch_start: Global number of that epoch's first row.
        samples_seen: Samples in all rows before.
    """

    position: int = 0
    epoch: int = 0
    epoch_start: int = 0
    samples_seen: int = 0


class Cursor:
    """Walks an order; keeps the rows of the current epoch."""

    def __init__(self, order: Order, place: Place):
        self.order = order
        self.place = place
        self._epoch = -1
        self._rows: list[np.ndarray] = []

    def take(self, num_rows: int) -> tuple[list[tuple[int, np.ndarray]], Place]:
        """The next rows as (epoch, sample numbers), and the place after them.

        The last step of an epoch is filled from the next one.
        """
        taken, p = [], self.place
        while len(taken) < num_rows:
            if self._epoch != p.epoch:
                self._epoch, self._rows = p.epoch, self.order.epoch_rows(p.epoch)
            row = self._rows[p.position - p.epoch_start]
            taken.append((p.epoch, row))
            last = p.position + 1 - p.epoch_start == len(self._rows)
            p = Place(
                p.position + 1,
                p.epoch + last,
                p.position + 1 if last else p.epoch_start,
                p.samples_seen + len(row),
            )
        self.place = p
        return taken, p

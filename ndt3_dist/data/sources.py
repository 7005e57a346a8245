"""What rows are drawn from: all chosen windows in epochs, or sources by weight."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ndt3_dist.data.blocks import Blocks, Chosen
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.mixture import rows_of_period
from ndt3_dist.data.order import Order

REMEMBERED = 64
"""Blocks of a source whose windows are kept; one has about 130 kB."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a row is drawn from."""

    blocks: Blocks
    order: Order


class Sources:
    """The sources of the first sessions and shards of a corpus.

    Attributes:
        chosen: Which windows are trained on.
        every: One of each part of `data.mixture`, or one that has them all.
    """

    def __init__(self, feed: Feed, fingerprint: str, sessions: int, shards: int):
        """
        Args:
            fingerprint: Of the corpus when it had so many sessions and shards of all splits.
            sessions, shards: How many there are.
        """
        self.data, own = feed.data, {s.name for s in feed.corpus.shards}
        of_split = sum(s.name in own for s in feed.corpus.manifest.shards[:shards])
        self.chosen = Chosen(feed, sessions, of_split)
        self.every: list[Source] = []
        for number, blocks in enumerate(self.chosen.sources):
            key = f"{fingerprint}/{number}" if self.data.mixture else fingerprint
            # A rare source has blocks of many shards, which its epochs all ask for again.
            samples_of = functools.lru_cache(REMEMBERED)(blocks.samples_of)
            size = self.data.row_tokens, self.data.lanes
            order = Order(key, feed.seed, blocks.rows, samples_of, *size)
            self.every.append(Source(blocks, order))
        self.rows = np.array([s.order.epoch_rows for s in self.every])
        self.samples = np.array([s.blocks.samples.sum() for s in self.every])
        self.tokens = np.array([s.blocks.tokens.sum() for s in self.every])
        self.bins = np.array([s.blocks.bins.sum() for s in self.every])

    @property
    def num_samples(self) -> int:
        """Windows of an epoch."""
        return int(self.samples.sum())

    def by_weight(self) -> tuple[int, ...]:
        """Rows of each source in a period of the mixture; none where there is no mixture."""
        if not self.data.mixture:
            return ()
        weights = np.array([part.weight for part in self.data.mixture])
        shared = {"windows": self.samples, "tokens": self.tokens, "hours": self.bins}
        per_row = shared[self.data.mixture_by] / self.rows
        return tuple(rows_of_period(weights, per_row).tolist())

    def epoch_rows(self, shares: np.ndarray) -> int:
        """Rows of an epoch, or in which a mixture has as many windows as one, about."""
        return max(1, round(self.num_samples / float(shares @ (self.samples / self.rows))))

    def fill(self, shares: np.ndarray) -> float:
        """Share of the slots of all rows that hold a token."""
        return float(shares @ (self.tokens / self.rows)) / self.data.row_tokens

    def expected(self, shares: np.ndarray) -> np.ndarray:
        """Share of all windows that each session is to have, (sessions,)."""
        windows = np.zeros(len(self.chosen.windows))
        for source, per_row in zip(self.every, shares / self.rows, strict=True):
            windows += per_row * self.chosen.windows * source.blocks.taken
        return windows / windows.sum()

    def lines(self, shares: np.ndarray) -> Iterator[str]:
        """A line on each source of a mixture."""
        hours = self.bins * self.chosen.feed.corpus.manifest.bin_size_ms / 3.6e6
        passes = shares * self.epoch_rows(shares) / self.rows
        for i, part in enumerate(self.data.mixture):
            yield (
                f"source {', '.join(part.sessions)}: {self.samples[i]} windows, {hours[i]:.2f} h; "
                f"{shares[i]:.2%} of all rows, {passes[i]:.2f} passes an epoch"
            )

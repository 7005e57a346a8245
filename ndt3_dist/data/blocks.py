"""Which windows of a corpus a run trains on, and the blocks of whole shards that they lie in.

One pass over the index when a run starts, by one rank for all; what stays is a few numbers a block
and one a session.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import count_rows, seed_of
from ndt3_dist.data.patterns import named, sources_of
from ndt3_dist.errors import BadInput
from ndt3_dist.model.contract import Packing

ALL = np.uint64(2**64 - 1)
REQUESTS = 16
"""Indexes of a remote corpus that are asked for at once."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """The windows of a source in blocks.

    Attributes:
        chosen: Which windows are trained on.
        taken: Sessions of the source, (sessions,) bool.
        first: Shard with which each block begins, and the end of the last, (blocks + 1,).
        rows, samples, tokens, bins: Of each block, (blocks,).
    """

    chosen: "Chosen"
    taken: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    samples: np.ndarray
    tokens: np.ndarray
    bins: np.ndarray

    def samples_of(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and tokens of the windows of a block."""
        packing, found = self.chosen.feed.packing, []
        for shard in range(self.first[block], self.first[block + 1]):
            numbers, index = self.chosen.of_shard(shard)
            mine = self.taken[index["session"]]
            found.append((numbers[mine], packing.tokens(index[mine])))
        numbers, tokens = zip(*found, strict=True)
        return np.concatenate(numbers), np.concatenate(tokens)

    def block_of(self, number: int) -> int:
        """The block that a window of the source lies in."""
        shard = self.chosen.feed.corpus.shard_of(number)
        return int(np.searchsorted(self.first, shard, "right")) - 1


class Chosen:
    """Which windows of the first shards of a corpus are trained on.

    Attributes:
        feed: That they are of.
        windows: That are trained on, of each session, (sessions,).
        sources: Their blocks, of each source of `data.mixture`, or of one that has them all.
    """

    def __init__(self, feed: Feed, sessions: int | None = None, shards: int | None = None):
        """
        Args:
            sessions, shards: How many of the corpus's first it has; all of them, if None.
        Raises:
            BadInput: A pattern names nothing, nothing is left, or a window fits no row.
        """
        self.feed, corpus, data = feed, feed.corpus, feed.data
        self.shards = len(corpus.shards) if shards is None else shards
        ids = [s.id for s in corpus.manifest.sessions]
        self._seeds = np.array([seed_of("chosen", feed.seed, i) for i in ids], np.uint64)
        known = ids[:sessions]
        taken, sources = named(corpus.path, known, data), sources_of(corpus.path, known, data)
        self._highest = np.zeros(len(ids), np.uint64)
        self._highest[: len(known)] = np.where(taken, ALL, np.uint64(0))
        self._source = np.full(len(ids), -1)
        self._source[: len(known)] = sources
        self._highest, self.windows, divided = feed.broadcast(self._pass)
        self.sources = [
            Blocks(self, self._source == i, *arrays) for i, arrays in enumerate(divided)
        ]

    def of_shard(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the windows of a shard that are trained on, and their index."""
        index = self.feed.corpus.records_of(shard)
        kept = np.flatnonzero(self._draws(index) <= self._highest[index["session"]])
        return self.feed.corpus.first[shard] + kept, index[kept]

    def _draws(self, index: np.ndarray) -> np.ndarray:
        """A number of each window that follows from seed, session and first bin, 1 to 2**64 - 1."""
        return np.maximum(mix(self._seeds[index["session"]] + mix(index["start_bin"])), 1)

    def _each_shard(self) -> Iterator[int]:
        """All shards in order; indexes of a remote corpus are asked for ahead, many at once."""
        if not storage.is_remote(self.feed.corpus.path):
            yield from range(self.shards)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            ahead: deque[tuple[int, Future]] = deque()
            for shard in range(self.shards + 4 * REQUESTS):
                if shard < self.shards:
                    ahead.append((shard, pool.submit(self.feed.corpus.records_of, shard)))
                if shard >= 4 * REQUESTS and ahead:
                    ready, asked = ahead.popleft()
                    asked.result()
                    yield ready

    def _pass(self):
        if self.feed.data.scale_ratio < 1 or self.feed.data.max_windows_per_session:
            self._limit()
        return self._highest, *self._divide()

    def _limit(self) -> None:
        """Let each session keep its share: those windows with lowest draws."""
        data, found = self.feed.data, [[] for _ in self._highest]
        for shard in log.progress(self._each_shard(), "choosing windows, shards", self.shards):
            index = self.feed.corpus.records_of(shard)
            draws = self._draws(index)
            for session in np.unique(index["session"]).tolist():
                if self._highest[session]:
                    found[session].append(draws[index["session"] == session])
        for session, parts in enumerate(found):
            draws = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
            keep = round(data.scale_ratio * len(draws))
            keep = min(keep, data.max_windows_per_session or keep)
            self._highest[session] = draws[keep - 1] if keep else 0

    def _divide(self):
        """Windows of each session, and arrays of the blocks of each source."""
        data, packing, path = self.feed.data, self.feed.packing, self.feed.corpus.path
        building = [_Building() for _ in data.mixture or [None]]
        windows = np.zeros(len(self._highest), np.int64)
        for shard in log.progress(self._each_shard(), "reading indexes, shards", self.shards):
            _, index = self.of_shard(shard)
            windows += np.bincount(index["session"], minlength=len(windows))
            source = self._source[index["session"]]
            for number, blocks in enumerate(building):
                blocks.add(index[source == number], packing)
                enough = 1 if shard + 1 == self.shards else data.block_samples
                if blocks.held >= enough:
                    blocks.end(shard + 1, data.row_tokens, path)
        for number, blocks in enumerate(building):
            if not blocks.numbers:
                key = f"data.mixture.{number}.sessions" if data.mixture else "data.sessions"
                raise BadInput(f"{path}: {key} and data.exclude leave no window")
        return windows, [(np.array(b.first), *np.array(b.numbers).T) for b in building]


class _Building:
    """The blocks of a source as they come.

    Attributes:
        first: Shard with which each begins, and the end of the last.
        numbers: Rows, samples, tokens and bins of each.
        held: Windows that wait for the next.
    """

    def __init__(self):
        self.first, self.numbers, self.held = [0], [], 0
        self._tokens, self._bins = [], 0

    def add(self, index: np.ndarray, packing: Packing) -> None:
        """Let windows wait for the end of the block."""
        if len(index):
            self._tokens.append(packing.tokens(index))
            self._bins += int(index["bins"].sum(dtype=np.int64))
            self.held += len(index)

    def end(self, shard: int, row_tokens: int, path: str) -> None:
        """Make a block of what waits; BadInput where a window fits no row."""
        lengths, counts = np.unique(np.concatenate(self._tokens), return_counts=True)
        if lengths[-1] > row_tokens:
            raise BadInput(
                f"{path}: a window of {lengths[-1]} tokens does not fit a row; "
                f"data.row_tokens is {row_tokens}: raise it"
            )
        rows = count_rows(lengths[::-1], counts[::-1], row_tokens)
        self.first.append(shard)
        self.numbers.append((rows, self.held, int(lengths @ counts), self._bins))
        self._tokens, self._bins, self.held = [], 0, 0


def mix(values: np.ndarray) -> np.ndarray:
    """Spread integers over all 64 bits (the finaliser of SplitMix64)."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

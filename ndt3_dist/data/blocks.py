"""Which samples of a corpus a run trains on, and the blocks of whole shards that they lie in.

One pass over the index when a run starts; what stays is a few numbers a block and one a session.
"""

import fnmatch

import numpy as np

from ndt3_dist.config import DataConfig, ModelConfig
from ndt3_dist.data.order import count_rows, seed_of
from ndt3_dist.data.tokens import TokenCounts
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.read import Corpus

ALL = np.uint64(2**64 - 1)


class Blocks:
    """The chosen samples of a corpus in blocks.

    Attributes:
        chosen: Highest draw of a window that is trained on, of each session, (sessions,) uint64.
        first: Shard with which each block begins, and the number of shards, (blocks + 1,).
        rows, samples, tokens: Of each block, (blocks,).
        windows: Of each session, (sessions,).
    """

    def __init__(self, corpus: Corpus, data: DataConfig, model: ModelConfig, seed: int):
        self.corpus = corpus
        self.counts = TokenCounts(corpus.manifest.sessions, model)
        ids = [s.id for s in corpus.manifest.sessions]
        self.seeds = np.array([seed_of("chosen", seed, i) for i in ids], np.uint64)
        self.chosen = np.where(named(corpus.path, ids, data), ALL, np.uint64(0))
        if data.scale_ratio < 1 or data.max_windows_per_session:
            self._limit(data)
        self._divide(data)
        if not len(self.rows):
            raise BadInput(f"{corpus.path}: data.sessions and data.exclude leave no window")

    def samples_of(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and tokens of the samples of a block that are trained on."""
        found = [self._shard(s) for s in range(self.first[block], self.first[block + 1])]
        numbers, _, tokens = zip(*found, strict=True)
        return np.concatenate(numbers), np.concatenate(tokens)

    def block_of(self, number: int) -> int:
        """The block that a sample lies in."""
        return int(np.searchsorted(self.first, self.corpus.shard_of(number), "right")) - 1

    def _shard(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, sessions and tokens of the samples of a shard that are trained on."""
        index = self.corpus.records_of(shard)
        kept = np.flatnonzero(self._draws(index) <= self.chosen[index["session"]])
        index = index[kept]
        return self.corpus.first[shard] + kept, index["session"], self.counts.of(index)

    def _draws(self, index: np.ndarray) -> np.ndarray:
        """A number of each window that follows from seed, session and first bin, 1 to 2**64 - 1."""
        return np.maximum(mix(self.seeds[index["session"]] + mix(index["start_bin"])), 1)

    def _limit(self, data: DataConfig) -> None:
        """Lower `chosen` so that each session keeps its share: those windows with lowest draws."""
        sessions = self.corpus.manifest.sessions
        found: list[list[np.ndarray]] = [[] for _ in sessions]
        for shard in range(len(self.corpus.shards)):
            index = self.corpus.records_of(shard)
            draws = self._draws(index)
            for session in np.unique(index["session"]).tolist():
                if self.chosen[session]:
                    found[session].append(draws[index["session"] == session])
        for session, parts in enumerate(found):
            draws = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
            keep = round(data.scale_ratio * len(draws))
            keep = min(keep, data.max_windows_per_session or keep)
            self.chosen[session] = draws[keep - 1] if keep else 0

    def _divide(self, data: DataConfig) -> None:
        first, rows, samples, tokens, waiting = [0], [], [], [], []
        self.windows = np.zeros(len(self.seeds), np.int64)
        for shard in range(len(self.corpus.shards)):
            _, session, of_shard = self._shard(shard)
            waiting.append(of_shard)
            self.windows += np.bincount(session, minlength=len(self.windows))
            held = sum(len(w) for w in waiting)
            if held and (held >= data.block_samples or shard + 1 == len(self.corpus.shards)):
                lengths, counts = np.unique(np.concatenate(waiting), return_counts=True)
                if lengths[-1] > data.row_tokens:
                    raise BadInput(
                        f"{self.corpus.path}: a window of {lengths[-1]} tokens does not fit a "
                        f"row; data.row_tokens is {data.row_tokens}: raise it"
                    )
                rows.append(count_rows(lengths[::-1], counts[::-1], data.row_tokens))
                samples.append(held)
                tokens.append(int(lengths @ counts))
                first.append(shard + 1)
                waiting = []
        self.first, self.rows = np.array(first), np.array(rows, np.int64)
        self.samples, self.tokens = np.array(samples, np.int64), np.array(tokens, np.int64)


def named(corpus: str, ids: list[str], data: DataConfig) -> np.ndarray:
    """Which sessions `data.sessions` takes and `data.exclude` leaves, (sessions,) bool.

    Raises:
        BadInput: A pattern names no session of the corpus.
    """
    found = {}
    for pattern in (*data.sessions, *data.exclude):
        found[pattern] = np.array([fnmatch.fnmatchcase(i, pattern) for i in ids])
        if not found[pattern].any():
            raise BadInput(
                f"{corpus}: no session matches {pattern!r}; patterns such as 'falcon-*' match "
                f"whole ids, DATASET-SUBJECT-SESSION: {', '.join(ids[:5])}"
                + (", ..." if len(ids) > 5 else "")
            )
    taken = np.any([found[p] for p in data.sessions], axis=0)
    return taken & ~np.any([found[p] for p in data.exclude] or [np.zeros(len(ids), bool)], axis=0)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread integers over all 64 bits (the finaliser of SplitMix64)."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

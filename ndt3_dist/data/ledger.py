"""What of a corpus is damaged for good, and what takes its place.

A damaged window never reaches the model. `data.on_corrupt` says whether it ends the run or is
quarantined: entered here, kept with each checkpoint, and replaced wherever the order calls for it
by another window that no rank, worker or restart has a say in.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import generator
from ndt3_dist.data.sources import Source
from ndt3_dist.errors import RankFailed, ShardCorrupt


@dataclass(frozen=True, order=True)
class Damage:
    """One damaged thing.

    Attributes:
        position: Global number of the first row of the step that met it.
        shard: Its shard; empty where something else went wrong that ends the run.
        window: Its window; empty where no window of the shard can be read.
        reason: What was found.
    """

    position: int
    shard: str
    window: str
    reason: str


class Ledger:
    """Damage known so far, the same on every rank.

    Attributes:
        entries: In the order in which they were met.
        damaged: Numbers of the samples that are replaced, sorted.
    """

    def __init__(self, feed: Feed):
        self.feed, self.corpus, self.data = feed, feed.corpus, feed.data
        self.entries: list[Damage] = []
        self.damaged = np.empty(0, np.int64)

    def add(self, found: Sequence[Damage]) -> None:
        """Quarantine what was found.

        Raises:
            ShardCorrupt: The run is to stop instead.
            RankFailed: It is no window's fault, as a disk that is full.
        """
        found = sorted(set(found))
        if not found[0].shard:  # no window's fault, and nothing could stand in for it
            raise RankFailed(found[0].reason)
        if self.data.on_corrupt == "raise":
            raise ShardCorrupt(f"{found[0].reason}; data.on_corrupt=quarantine trains on")
        self._mark(found)
        share = len(self.damaged) / len(self.corpus)
        if share > self.data.max_quarantined:
            raise ShardCorrupt(
                f"{self.corpus.path}: {share:.2%} of all windows are damaged, "
                f"data.max_quarantined allows {self.data.max_quarantined:.2%}; last: "
                f"{found[-1].reason}"
            )

    def restore(self, state: Sequence[dict]) -> None:
        """Take over the ledger of a checkpoint."""
        self._mark([Damage(**entry) for entry in state])

    def state(self) -> list[dict]:
        """What a checkpoint keeps."""
        return [asdict(entry) for entry in self.entries]

    def _mark(self, entries: Sequence[Damage]) -> None:
        names = {shard.name: i for i, shard in enumerate(self.corpus.shards)}
        for entry in entries:
            shard = names[entry.shard]
            members = np.arange(self.corpus.first[shard], self.corpus.first[shard + 1])
            if entry.window:
                members = [n for n in members.tolist() if self.corpus.key(n) == entry.window]
            self.damaged = np.union1d(self.damaged, members).astype(np.int64)
            self.entries.append(entry)

    def _is_damaged(self, numbers: np.ndarray) -> np.ndarray:
        return np.isin(numbers, self.damaged, assume_unique=True)

    def replace(self, source: Source, epoch: int, samples: np.ndarray) -> np.ndarray:
        """Samples of a row with intact ones in place of damaged ones.

        A stand-in has at most the tokens of what it stands for, so that it fits the row. It comes
        from its own block where that has one, else from the first of an order of all blocks of its
        source that follows from seed, epoch and block.

        Args:
            samples: Sample numbers, (samples,).
        """
        if not len(self.damaged) or not self._is_damaged(samples).any():
            return samples
        chosen = samples.copy()
        for place in np.flatnonzero(self._is_damaged(samples)):
            chosen[place] = self._stand_in(source, epoch, int(samples[place]))
        return chosen

    def _stand_in(self, source: Source, epoch: int, number: int) -> int:
        blocks, key = source.blocks, (source.order.fingerprint, self.feed.seed, epoch)
        most = int(self.feed.packing.tokens(self.corpus.records(np.array([number])))[0])
        own = blocks.block_of(number)
        others = generator("blocks to replace from", *key, own).permutation(len(blocks.rows))
        draw = generator("replace", *key, number)
        for block in (own, *others.tolist()):
            numbers, tokens = blocks.samples_of(block)
            fitting = numbers[(tokens <= most) & ~self._is_damaged(numbers)]
            if len(fitting):
                return int(fitting[draw.integers(len(fitting))])
        raise ShardCorrupt(
            f"{self.corpus.where(number)} is damaged and no intact window has at most its "
            f"{most} tokens; restore its shard"
        )

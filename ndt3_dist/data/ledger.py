"""What of a corpus is damaged for good, and what takes its place.

A damaged window never reaches the model. `data.on_corrupt` says whether it ends the run or is
quarantined: entered here, kept with each checkpoint, and replaced wherever the order calls for it
by another window that no rank, worker or restart has a say in.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ndt3_dist.config import DataConfig
from ndt3_dist.data.order import Order, generator
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.read import Corpus


@dataclass(frozen=True, order=True)
class Damage:
    """One damaged thing.

    Attributes:
        position: Global number of the first row of the step that met it.
        shard: Its shard.
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
        damaged: Which samples are replaced, (samples,) bool.
    """

    def __init__(self, corpus: Corpus, data: DataConfig, order: Order):
        self.corpus, self.data, self.order = corpus, data, order
        self.entries: list[Damage] = []
        self.damaged = np.zeros(len(corpus), bool)

    def add(self, found: Sequence[Damage]) -> None:
        """Quarantine what was found; ShardCorrupt where the run is to stop instead."""
        found = sorted(set(found))
        if self.data.on_corrupt == "raise":
            raise ShardCorrupt(f"{found[0].reason}; data.on_corrupt=quarantine trains on")
        self._mark(found)
        share = self.damaged.mean()
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
            members = np.flatnonzero(self.corpus.shard_of == names[entry.shard]).tolist()
            if entry.window:
                members = [n for n in members if self.corpus.key(n) == entry.window]
            self.damaged[members] = True
            self.entries.append(entry)

    def replace(self, epoch: int, samples: np.ndarray) -> np.ndarray:
        """Samples of a row with intact ones in place of damaged ones.

        A stand-in has at most the tokens of what it stands for, so that it fits the row. It
        follows from seed, epoch and sample alone (and from what else is damaged).

        Args:
            epoch: Of the row.
            samples: Sample numbers, (samples,).
        """
        if not self.damaged[samples].any():
            return samples
        order, chosen = self.order, samples.copy()
        for place in np.flatnonzero(self.damaged[samples]):
            number = int(samples[place])
            fitting = np.flatnonzero(~self.damaged & (order.tokens <= order.tokens[number]))
            if not len(fitting):
                raise ShardCorrupt(
                    f"{self.corpus.where(number)} is damaged and no intact window has at most its "
                    f"{order.tokens[number]} tokens; restore its shard"
                )
            draw = generator("replace", order.fingerprint, order.seed, epoch, number)
            chosen[place] = fitting[draw.integers(len(fitting))]
        return chosen

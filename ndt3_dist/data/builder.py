"""Windows of some rows, read, verified, tokenised and packed: where a stream's time goes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ndt3_dist.data.ledger import Damage
from ndt3_dist.data.order import generator
from ndt3_dist.errors import ShardCorrupt, ShardLost
from ndt3_dist.model.contract import Packing
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.index import count_values

MicroBatch = tuple[int, list[tuple[int, np.ndarray]]]
"""Its number over all ranks, and epoch and sample numbers of each of its rows."""
Arrays = dict[str, np.ndarray]
Keep = Callable[[Arrays], Any]
Built = tuple[list[tuple[int, Arrays]], list[Damage], np.ndarray]
"""Packed micro-batches by number; what was damaged, from where on none is packed; of all rows from
the index alone samples, tokens, and what each target is counted by, (2 + targets,) int64."""


@dataclass
class Builder:
    """Builds micro-batches; pickled, it does so in another process.

    Attributes:
        corpus: Prepared windows.
        packing: How the model takes them.
        seed: Of the run.
    """

    corpus: Corpus
    packing: Packing
    seed: int

    @cached_property
    def changes(self) -> set[str]:
        """Streams that are given where they change alone."""
        return {t.name for s in self.corpus.manifest.sessions for t in s.streams if t.changes}

    def build(self, batches: list[MicroBatch], keep: Keep = lambda arrays: arrays) -> Built:
        """What is damaged has position 0.

        Args:
            keep: Of a packed micro-batch, where it is to lie.
        """
        packed, damage = [], []
        for number, rows in batches:
            windows = []
            for epoch, samples in rows:
                self._read(epoch, samples, windows, damage)
            if not damage:
                packed.append((number, keep(self.packing.pack(windows))))
        samples = np.concatenate([samples for _, rows in batches for _, samples in rows])
        index = self.corpus.records(samples)
        tokens, counts = self.packing.tokens(index), self.packing.counts(index)
        totals = np.r_[len(index), tokens.sum(), counts.sum(axis=0)].astype(np.int64)
        return packed, damage, totals

    def _read(self, epoch: int, samples: np.ndarray, windows: list, damage: list) -> None:
        """Read, verify and tokenise the samples of a row; what is damaged is left out."""
        for number in samples.tolist():
            try:
                windows.append(self.window(number, epoch))
            except ShardCorrupt as e:
                shard = self.corpus.shards[int(self.corpus.shard_of(number))].name
                window = "" if isinstance(e, ShardLost) else self.corpus.key(number)
                damage.append(Damage(0, shard, window, str(e)))

    def window(self, number: int, epoch: int) -> Any:
        """A sample as the model's packing has it. Raises ShardCorrupt."""
        sample, record = self.corpus.read(number), self.corpus.record(number)
        session = int(record["session"])
        for stream, array in sample.items():
            changes = stream in self.changes
            if (found := count_values(array, changes)) != record[stream]["values"]:
                raise ShardCorrupt(
                    f"{self.corpus.path}: window {self.corpus.key(number)} has {found} values of "
                    f"{stream}, its index {record[stream]['values']}; prepare the corpus anew"
                )
        # Keyed by the sample and its epoch, so that no rank or batch size changes what is drawn.
        return self.packing.window(sample, session, partial(self._draw, number, epoch))

    def _draw(self, number: int, epoch: int) -> np.random.Generator:
        return generator("mask", self.seed, epoch, self.corpus.key(number))

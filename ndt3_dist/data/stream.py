"""The stream of global steps: rows of a corpus as packed micro-batches for one rank.

A step is `global_batch` rows. Its micro-batches are numbered over all ranks, m = accumulation *
world + rank, so that the number of ranks changes who computes what and nothing else. Loss counts
of a step come from the index beforehand; samples that hold something else are corrupt.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ndt3_dist.config import DataConfig, ModelConfig
from ndt3_dist.data.order import Cursor, Order, Place, generator
from ndt3_dist.data.tokens import Layout, TokenLists, count_tokens, has_dummy, tokenise
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.read import Corpus


@dataclass
class Step:
    """One rank's part of a global step, and what the whole step holds.

    Attributes:
        batches: (number of the micro-batch over all ranks, its packed arrays), in order.
        samples: Samples of the whole step over all ranks.
        tokens: Tokens of the whole step.
        num_spikes: Spike targets of the whole step.
        num_covariates: Covariate targets of the whole step.
        after: Place after the step.
    """

    batches: list[tuple[int, dict[str, np.ndarray]]]
    samples: int
    tokens: int
    num_spikes: int
    num_covariates: int
    after: Place


class Stream:
    """Iterates over global steps from a place on; reads ahead by one step in the background."""

    def __init__(
        self,
        corpus: Corpus,
        data: DataConfig,
        model: ModelConfig,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.corpus, self.model, self.seed = corpus, model, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size = rank, world_size
        sessions = corpus.manifest.sessions
        self.layouts = [Layout.of(s, model) for s in sessions]
        dims = np.array([len(s.covariates) for s in sessions])
        self.dummies = has_dummy(dims, model)
        self.tokens = count_tokens(corpus.index, sessions, model)
        self.order = Order(
            corpus.manifest.fingerprint, seed, self.tokens, data.row_tokens, data.block_samples
        )

    @property
    def num_samples(self) -> int:
        return len(self.corpus)

    def steps(self, place: Place) -> Iterator[Step]:
        """Global steps without end."""
        cursor = Cursor(self.order, place)
        # One thread: reading and numpy release the GIL, and order needs no second one.
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
            ahead = pool.submit(self._build, *cursor.take(self.global_batch))
            while True:
                step = ahead.result()
                ahead = pool.submit(self._build, *cursor.take(self.global_batch))
                yield step

    def _build(self, rows: list[tuple[int, np.ndarray]], after: Place) -> Step:
        everything = np.concatenate([samples for _, samples in rows])
        index = self.corpus.index[everything]
        micro_batches = self.global_batch // self.micro_batch
        batches = [
            (m, self.pack(rows[m * self.micro_batch : (m + 1) * self.micro_batch]))
            for m in range(self.rank, micro_batches, self.world_size)
        ]
        return Step(
            batches,
            samples=len(everything),
            tokens=int(self.tokens[everything].sum()),
            num_spikes=int(index["spike_targets"].sum(dtype=np.int64)),
            num_covariates=int(index["covariate_targets"].sum(dtype=np.int64))
            + int(self.dummies[index["session"]].sum()),
            after=after,
        )

    def pack(self, rows: list[tuple[int, np.ndarray]]) -> dict[str, np.ndarray]:
        """Read, verify and tokenise the samples of some rows, laid end to end."""
        lists = TokenLists()
        for epoch, samples in rows:
            for number in samples.tolist():
                lists.add(*self._tokens_of(number, epoch))
        return lists.pack()

    def _tokens_of(self, number: int, epoch: int):
        sample = self.corpus.read(number)
        record = self.corpus.index[number]
        valid = int(np.isfinite(sample.covariates).sum())
        if sample.spikes.size != record["spike_targets"] or valid != record["covariate_targets"]:
            raise ShardCorrupt(
                f"{self.corpus.path}: window {self.corpus.key(number)} has {sample.spikes.size} "
                f"counts and {valid} covariate values, its index {record['spike_targets']} and "
                f"{record['covariate_targets']}; prepare the corpus anew"
            )
        blank = None
        if self.model.covariate_mask_rate < 1:
            # Keyed by the sample and its epoch, so that no rank or batch size changes a mask.
            draw = generator("mask", self.seed, epoch, self.corpus.key(number))
            blank = draw.random(sample.covariates.shape) < self.model.covariate_mask_rate
        layout = self.layouts[int(record["session"])]
        return tokenise(sample, layout, self.model, blank)

"""The stream of global steps: rows of a corpus as packed micro-batches for one rank.

A step is `global_batch` rows. Its micro-batches are numbered over all ranks, m = accumulation *
world + rank, so that the number of ranks changes who computes what and nothing else. Loss counts
of a step come from the index beforehand; samples that hold something else are corrupt.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ndt3_dist.config import DataConfig, ModelConfig
from ndt3_dist.data.blocks import Blocks
from ndt3_dist.data.ledger import Damage, Ledger
from ndt3_dist.data.order import Order, Place, generator
from ndt3_dist.data.tokens import Layout, TokenLists, tokenise
from ndt3_dist.errors import ShardCorrupt, ShardLost
from ndt3_dist.shards.read import Corpus

Share = Callable[[list[Damage]], list[Damage]]


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
        rows: The whole step's rows as (epoch, sample numbers), stand-ins for damaged ones included.
        damage: What this rank found damaged; its part of the step is then not built.
    """

    batches: list[tuple[int, dict[str, np.ndarray]]]
    samples: int
    tokens: int
    num_spikes: int
    num_covariates: int
    after: Place
    rows: list[tuple[int, np.ndarray]] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


class Now:
    """A call that is made when its result is asked for, by whoever asks."""

    def __init__(self, *call):
        self.call = call

    def result(self) -> Step:
        function, *arguments = self.call
        return function(*arguments)


class Stream:
    """Iterates over global steps from a place on; builds steps ahead in the background."""

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
        self.workers = data.workers
        self.blocks = Blocks(corpus, data, model, seed)
        # Also refuses sessions that the model cannot hold.
        taken = np.flatnonzero(self.blocks.chosen)
        sessions = corpus.manifest.sessions
        self.layouts = {int(i): Layout.of(sessions[i], model) for i in taken}
        self.order = Order(
            corpus.manifest.fingerprint,
            seed,
            self.blocks.rows,
            self.blocks.samples_of,
            data.row_tokens,
            data.lanes,
        )
        self.ledger = Ledger(corpus, data, self.order, self.tokens_of)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return int(self.blocks.samples.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch."""
        return int(self.blocks.tokens.sum())

    def tokens_of(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens of some samples, (samples,)."""
        return self.blocks.counts.of(self.corpus.records(numbers))

    def steps(self, place: Place, share: Share = list) -> Iterator[Step]:
        """Global steps without end.

        Args:
            place: Of the first.
            share: What this rank found damaged to what all ranks found. Called once a step, or
                more often where something was found, at the same times by all ranks.
        Raises:
            ShardCorrupt: Something is damaged and the ledger may not take it, on all ranks.
        """
        # Threads, not processes: reading, hashing and numpy release the GIL, nothing is copied from
        # one to the other, and none can be left behind.
        with ThreadPoolExecutor(max(self.workers, 1), thread_name_prefix="stream") as pool:
            build = pool.submit if self.workers else Now
            ahead: deque[tuple[list, Place, Future[Step] | Now]] = deque()
            while True:
                while len(ahead) < self.workers + 1:
                    rows, place = self.order.take(place, self.global_batch)
                    ahead.append((rows, place, build(self._build, rows, place)))
                rows, after, building = ahead.popleft()
                step = building.result()
                while found := share(step.damage):
                    self.ledger.add(found)
                    step = self._build(rows, after)
                    # What was built before may hold it, or another stand-in than it has now.
                    ahead = deque((r, p, build(self._build, r, p)) for r, p, _ in ahead)
                yield step

    def _build(self, planned: list[tuple[int, np.ndarray]], after: Place) -> Step:
        rows = [(epoch, self.ledger.replace(epoch, samples)) for epoch, samples in planned]
        everything = np.concatenate([samples for _, samples in rows])
        index = self.corpus.records(everything)
        micro_batches = self.global_batch // self.micro_batch
        batches, damage = [], []
        for m in range(self.rank, micro_batches, self.world_size):
            lists, found = self._read(rows[m * self.micro_batch : (m + 1) * self.micro_batch])
            damage += [replace(d, position=after.position - len(rows)) for d in found]
            if not damage:
                batches.append((m, lists.pack()))
        return Step(
            batches,
            samples=len(everything),
            tokens=int(self.blocks.counts.of(index).sum()),
            num_spikes=int(index["spike_targets"].sum(dtype=np.int64)),
            num_covariates=int(index["covariate_targets"].sum(dtype=np.int64))
            + int(self.blocks.counts.dummies[index["session"]].sum()),
            after=after,
            rows=rows,
            damage=damage,
        )

    def _read(self, rows: list[tuple[int, np.ndarray]]) -> tuple[TokenLists, list[Damage]]:
        """Read, verify and tokenise the samples of some rows; what is damaged is left out."""
        lists, damage = TokenLists(), []
        for epoch, samples in rows:
            for number in samples.tolist():
                try:
                    lists.add(*self._tokens_of(number, epoch))
                except ShardCorrupt as e:
                    shard = self.corpus.shards[int(self.corpus.shard_of(number))].name
                    window = "" if isinstance(e, ShardLost) else self.corpus.key(number)
                    damage.append(Damage(0, shard, window, str(e)))
        return lists, damage

    def _tokens_of(self, number: int, epoch: int):
        sample = self.corpus.read(number)
        record = self.corpus.record(number)
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

"""The stream of global steps: rows of a corpus as packed micro-batches for one rank.

A step is `global_batch` rows. Its micro-batches are numbered over all ranks, m = accumulation *
world + rank, so that the number of ranks changes who computes what and nothing else. Loss counts
come from the index, and ranks add theirs up; samples that hold something else are corrupt.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from ndt3_dist import storage
from ndt3_dist.data.blocks import Once
from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.fetch import Fetcher
from ndt3_dist.data.ledger import Damage, Ledger
from ndt3_dist.data.order import Place, generator
from ndt3_dist.data.plan import Plan
from ndt3_dist.data.threads import Threads
from ndt3_dist.errors import Ndt3DistError, ShardCorrupt, ShardLost
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.shards.corpus import Corpus

Share = Callable[[np.ndarray, list[Damage]], tuple[np.ndarray, list[Damage]]]


@dataclass
class Step:
    """One rank's part of a global step.

    Attributes:
        batches: (number of the micro-batch over all ranks, its packed arrays), in order.
        rows: This rank's rows as (number in the step, epoch, sample numbers), stand-ins for damaged
            samples included.
        counts: Samples, tokens, spike targets and covariate targets, (4,) int64: of this rank when
            it is built, of the whole step when it is handed out.
        damage: What this rank found damaged; its part of the step is then not built.
        after: Place after the step.
    """

    batches: list[tuple[int, dict[str, np.ndarray]]]
    rows: list[tuple[int, int, np.ndarray]]
    counts: np.ndarray
    damage: list[Damage] = field(default_factory=list)
    after: Place = field(default_factory=Place)

    @property
    def samples(self) -> int:
        return int(self.counts[0])

    @property
    def tokens(self) -> int:
        return int(self.counts[1])

    @property
    def num_spikes(self) -> int:
        return int(self.counts[2])

    @property
    def num_covariates(self) -> int:
        return int(self.counts[3])


def alone(counts: np.ndarray, found: list[Damage]) -> tuple[np.ndarray, list[Damage]]:
    """How the only rank shares what it has."""
    return counts, found


class Now:
    """A call that is made when its result is asked for, by whoever asks."""

    def __init__(self, *call):
        self.call = call

    def cancel(self) -> None:
        """Nothing has begun."""

    def result(self) -> Step:
        function, *arguments = self.call
        return function(*arguments)


class Stream:
    """Iterates over global steps from a place on; builds steps ahead in the background.

    Attributes:
        datasets: Names of those that its sessions are of.
    """

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
        once: Once = lambda call: call(),
        state: dict | None = None,
        epochs: float = 0.0,
    ):
        """
        Args:
            corpus, data, model, seed: Of the run.
            global_batch, micro_batch: Rows.
            rank, world_size: Of this process.
            once: Makes a call on one rank and hands its result to all.
            state: Of the checkpoint to go on from.
            epochs: Before the first row, of the run that a new one's weights come from.
        Raises:
            ResumeMismatch: The corpus is not the state's, nor does it begin with it.
        """
        self.corpus, self.model, self.seed = corpus, model, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size = rank, world_size
        self.workers = data.workers
        state = state or {"place": {}, "stretches": (), "ledger": (), "epochs": epochs}
        self.start = Place(**state["place"])
        run = once, state["stretches"], self.start, state["epochs"]
        self.plan = Plan(corpus, data, model, seed, *run)
        # Also refuses sessions that the model cannot hold.
        taken = np.flatnonzero(self.plan.sources.chosen.windows)
        sessions = corpus.manifest.sessions
        self.layouts = {int(i): Layout.of(sessions[i], model) for i in taken}
        self.datasets = sorted({sessions[i].dataset for i in taken})
        own = {name: i for i, name in enumerate(self.datasets)}
        self._dataset = np.array([own.get(s.dataset, -1) for s in sessions])
        self.ledger = Ledger(corpus, data, seed)
        self.ledger.restore(() if self.plan.renewed else state["ledger"])

    def state(self, place: Place) -> dict:
        """What a checkpoint keeps."""
        return {
            "fingerprint": self.corpus.manifest.fingerprint,
            "place": vars(place),
            "epochs": self.plan.epochs(place),
            "stretches": self.plan.state(),
            "ledger": self.ledger.state(),
        }

    def tokens_of(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens of some samples, (samples,)."""
        return self.plan.sources.chosen.counts.of(self.corpus.records(numbers))

    def dataset_of(self, numbers: np.ndarray) -> np.ndarray:
        """Place of each sample's dataset in `datasets`, (samples,)."""
        return self._dataset[self.corpus.records(numbers)["session"]]

    def rows_of_step(self, position: int) -> Iterator[tuple[int, list[int]]]:
        """This rank's micro-batches of the step that begins at a position: number, positions."""
        for m in range(self.rank, self.global_batch // self.micro_batch, self.world_size):
            first = position + m * self.micro_batch
            yield m, list(range(first, first + self.micro_batch))

    def steps(self, place: Place, share: Share = alone) -> Iterator[Step]:
        """Global steps without end.

        Args:
            place: Of the first.
            share: This rank's counts and damage to the sum of all ranks' counts and all that is
                damaged. Called once a step, or more often where something was found, at the same
                times by all ranks.
        Raises:
            ShardCorrupt: Something is damaged and the ledger may not take it, on all ranks.
        """
        fetcher = Fetcher(self, place.position) if storage.is_remote(self.corpus.path) else None
        # Threads, not processes: reading, hashing and numpy release the GIL, nothing is copied from
        # one to the other, and none can be left behind.
        threads = Threads(self.workers, "stream")
        build = threads.submit if self.workers else Now
        ahead: deque[tuple[int, Future[Step] | Now]] = deque()
        position = place.position
        try:
            while True:
                while len(ahead) < self.workers + 1:
                    if fetcher:
                        fetcher.go_on()
                    ahead.append((position, build(self._build, position)))
                    position += self.global_batch
                at, building = ahead.popleft()
                step = building.result()
                counts, found = share(step.counts, step.damage)
                while found:
                    self.ledger.add(found)
                    step = self._build(at)
                    # What was built before may hold it, or another stand-in than it has now.
                    for _, old in ahead:
                        old.cancel()
                    ahead = deque((p, build(self._build, p)) for p, _ in ahead)
                    counts, found = share(step.counts, step.damage)
                place = Place(at + self.global_batch, place.samples_seen + int(counts[0]))
                yield replace(step, counts=counts, after=place)
        finally:
            threads.close()
            if fetcher:
                fetcher.close()

    def _build(self, position: int) -> Step:
        step = Step([], [], np.zeros(4, np.int64))
        try:
            self._fill(step, position)
        except (Ndt3DistError, OSError) as e:
            # Of this rank alone, as a disk that is full: all ranks are to end with it.
            step.damage.append(Damage(position, "", "", str(e)))
        return step

    def _fill(self, step: Step, position: int) -> None:
        for m, positions in self.rows_of_step(position):
            rows = []
            for p in positions:
                source, epoch, samples = self.plan.row(p)
                rows.append((p - position, epoch, self.ledger.replace(source, epoch, samples)))
            lists, damage = self._read([row[1:] for row in rows])
            step.rows.extend(rows)
            step.damage.extend(replace(d, position=position) for d in damage)
            if not step.damage:
                step.batches.append((m, lists.pack()))
        index = self.corpus.records(np.concatenate([samples for *_, samples in step.rows]))
        counts = self.plan.sources.chosen.counts
        step.counts[:] = (
            len(index),
            counts.of(index).sum(),
            index["spike_targets"].sum(dtype=np.int64),
            index["covariate_targets"].sum(dtype=np.int64) + counts.dummies[index["session"]].sum(),
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
        sample, record = self.corpus.read(number), self.corpus.record(number)
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

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
from ndt3_dist.data.builder import Builder, MicroBatch
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.fetch import Fetcher
from ndt3_dist.data.ledger import Damage, Ledger
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.plan import Plan
from ndt3_dist.data.processes import Processes
from ndt3_dist.data.threads import Threads
from ndt3_dist.errors import Ndt3DistError

Rows = list[tuple[int, int, np.ndarray]]
"""Number in the step, epoch and sample numbers of each row."""
Share = Callable[[np.ndarray, list[Damage]], tuple[np.ndarray, list[Damage]]]


@dataclass
class Step:
    """One rank's part of a global step.

    Attributes:
        batches: (number of the micro-batch over all ranks, its packed arrays), in order.
        rows: This rank's rows as (number in the step, epoch, sample numbers), stand-ins for damaged
            samples included.
        totals: Samples and tokens, then what each target is counted by, (2 + targets,) int64: of
            this rank when it is built, of the whole step when it is handed out.
        damage: What this rank found damaged; its part of the step is then not built.
        after: Cursor after the step.
    """

    batches: list[tuple[int, dict[str, np.ndarray]]]
    rows: Rows
    totals: np.ndarray
    damage: list[Damage] = field(default_factory=list)
    after: Cursor = field(default_factory=Cursor)

    @property
    def samples(self) -> int:
        return int(self.totals[0])

    @property
    def tokens(self) -> int:
        return int(self.totals[1])

    @property
    def counts(self) -> list[int]:
        """What each target's loss is divided by."""
        return self.totals[2:].tolist()


def alone(totals: np.ndarray, found: list[Damage]) -> tuple[np.ndarray, list[Damage]]:
    """How the only rank shares what it has."""
    return totals, found


class Deferred:
    """A call that is made when its result is asked for, by whoever asks."""

    def __init__(self, *call):
        self.call = call

    def cancel(self) -> None:
        """Nothing has begun."""

    def result(self) -> Step:
        function, *arguments = self.call
        return function(*arguments)


class Stream:
    """Iterates over global steps from a cursor on; builds steps ahead in the background.

    Attributes:
        datasets: Names of those that its sessions are of.
    """

    def __init__(self, feed: Feed, state: dict | None = None, epochs: float = 0.0):
        """
        Args:
            state: Of the checkpoint to go on from.
            epochs: Before the first row, of the run that a new one's weights come from.
        Raises:
            ResumeMismatch: The corpus is not the state's, nor does it begin with it.
            BadInput: The model cannot hold a session.
        """
        self.feed, self.corpus, self.packing = feed, feed.corpus, feed.packing
        self.rank, self.world_size = feed.rank, feed.world_size
        self.fingerprint = feed.corpus.manifest.fingerprint
        state = state or {"place": {}, "stretches": (), "ledger": (), "epochs": epochs}
        self.start = Cursor(**state["place"])
        self.plan = Plan(feed, state["stretches"], self.start, state["epochs"])
        taken = np.flatnonzero(self.plan.sources.chosen.windows)
        sessions = feed.corpus.manifest.sessions
        self.packing.check(taken.tolist())
        self.datasets = sorted({sessions[i].dataset for i in taken})
        self._targets = self.packing.counts(self.corpus.records(np.zeros(0, int))).shape[1]
        own = {name: i for i, name in enumerate(self.datasets)}
        self._dataset = np.array([own.get(s.dataset, -1) for s in sessions])
        self.builder = Builder(self.corpus, self.packing, feed.seed)
        self.build = self.builder.build
        self.ledger = Ledger(feed)
        self.ledger.restore(() if self.plan.renewed else state["ledger"])

    def state(self, cursor: Cursor) -> dict:
        """What a checkpoint keeps."""
        return {
            "fingerprint": self.corpus.manifest.fingerprint,
            "place": vars(cursor),
            "epochs": self.plan.epochs(cursor),
            "stretches": self.plan.state(),
            "ledger": self.ledger.state(),
        }

    def tokens_of(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens of some samples, (samples,)."""
        return self.packing.tokens(self.corpus.records(numbers))

    def counts_of(self, numbers: np.ndarray) -> np.ndarray:
        """What each target's loss of some samples is counted by, (samples, targets)."""
        return self.packing.counts(self.corpus.records(numbers))

    def datasets_of(self, numbers: np.ndarray) -> np.ndarray:
        """Index of each sample's dataset in `datasets`, (samples,)."""
        return self._dataset[self.corpus.records(numbers)["session"]]

    def names(self, rows: Rows) -> list[str]:
        """Keys of the windows of some rows."""
        return [self.corpus.key(n) for *_, samples in rows for n in samples.tolist()]

    def over_represented(self, rows: Rows) -> list[tuple[str, int, float]]:
        """The three sessions with most windows in some rows beyond their share of the data.

        Returns:
            (session, windows among these, windows expected of it), most surprising first; only
            sessions with more than expected.
        """
        sessions = self.corpus.manifest.sessions
        numbers = np.concatenate([samples for *_, samples in rows])
        found = np.bincount(self.corpus.records(numbers)["session"], minlength=len(sessions))
        expected = self.plan.sources.expected(self.plan.shares) * len(numbers)
        excess = (found - expected) / np.sqrt(np.maximum(expected, 1e-9))
        order = [i for i in np.argsort(-excess, kind="stable")[:3] if found[i] > expected[i]]
        return [(sessions[i].id, int(found[i]), float(expected[i])) for i in order]

    def epochs(self, cursor: Cursor) -> float:
        """Passes over the chosen windows before a cursor."""
        return self.plan.epochs(cursor)

    def steps_in(self, epochs: float) -> float:
        """About how many steps so many passes take."""
        return epochs * self.plan.epoch_rows / self.feed.global_batch

    def rows_of_step(self, position: int) -> Iterator[tuple[int, list[int]]]:
        """This rank's micro-batches of the step that begins at a position: number, positions."""
        size = self.feed.micro_batch
        for m in range(self.rank, self.feed.global_batch // size, self.world_size):
            first = position + m * size
            yield m, list(range(first, first + size))

    def shards_of_step(self, position: int) -> set[int]:
        """Shards that this rank's rows of a step lie in."""
        needed: set[int] = set()
        for _, positions in self.rows_of_step(position):
            for p in positions:
                needed |= set(self.corpus.shard_of(self.plan.row(p)[2]).tolist())
        return needed

    def steps(self, cursor: Cursor, share: Share = alone) -> Iterator[Step]:
        """Global steps without end.

        Args:
            cursor: Of the first.
            share: This rank's totals and damage to the sum of all ranks' totals and all that is
                damaged. Called once a step, or more often where something was found, at the same
                times by all ranks.
        Raises:
            ShardCorrupt: Something is damaged and the ledger may not take it, on all ranks.
        """
        batch, workers = self.feed.global_batch, self.feed.data.workers
        fetcher = None
        if storage.is_remote(self.corpus.path):
            fetcher = Fetcher(self.corpus.fetch, self.shards_of_step, batch, cursor.position)
        # One thread shares a core's time well; several get in each other's way, and each takes a
        # process that does its work.
        processes = Processes(self.builder, workers) if workers > 1 else None
        self.build = (processes or self.builder).build
        count = 2 * workers if processes else workers  # one finds a step's rows, another waits
        threads = Threads(count, "stream")
        build = threads.submit if workers else Deferred
        ahead: deque[tuple[int, Future[Step] | Deferred]] = deque()
        position = cursor.position
        try:
            while True:
                while len(ahead) < count + 1:
                    if fetcher:
                        fetcher.go_on()
                    ahead.append((position, build(self._build, position)))
                    position += batch
                at, building = ahead.popleft()
                step = building.result()
                totals, found = share(step.totals, step.damage)
                while found:
                    self.ledger.add(found)
                    step = self._build(at)
                    # What was built before may hold it, or another stand-in than it has now.
                    for _, old in ahead:
                        old.cancel()
                    ahead = deque((p, build(self._build, p)) for p, _ in ahead)
                    totals, found = share(step.totals, step.damage)
                cursor = Cursor(at + batch, cursor.samples_seen + int(totals[0]))
                yield replace(step, totals=totals, after=cursor)
        finally:
            threads.close()
            if processes:
                self.build = self.builder.build
                processes.close()
            if fetcher:
                fetcher.close()

    def _build(self, position: int) -> Step:
        step = Step([], [], np.zeros(2 + self._targets, np.int64))
        try:
            self._fill(step, position)
        except (Ndt3DistError, OSError) as e:
            # Of this rank alone, as a disk that is full: all ranks are to end with it.
            step.damage.append(Damage(position, "", "", str(e)))
        return step

    def _fill(self, step: Step, position: int) -> None:
        batches: list[MicroBatch] = []
        for m, positions in self.rows_of_step(position):
            for p in positions:
                source, epoch, samples = self.plan.row(p)
                samples = self.ledger.replace(source, epoch, samples)
                step.rows.append((p - position, epoch, samples))
            batches.append((m, [row[1:] for row in step.rows[-len(positions) :]]))
        step.batches, damage, step.totals = self.build(batches)
        step.damage.extend(replace(d, position=position) for d in damage)

"""Which row lies at each position of a run: its stretches, one after the other.

A stretch is what rows are drawn from as long as nothing changes: so many shards of the corpus, in
epochs or by weight. A run has one; another begins where it is resumed with other weights, or with
a corpus that was extended. All that there were stay in the state, so that any position can be found
again.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ndt3_dist import log
from ndt3_dist.config import DataConfig, ModelConfig
from ndt3_dist.data.blocks import Once
from ndt3_dist.data.mixture import Mixture, lanes_of
from ndt3_dist.data.order import Order, Place
from ndt3_dist.data.sources import Source, Sources
from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.shards.format import fingerprint
from ndt3_dist.shards.read import Corpus


@dataclass(frozen=True)
class Stretch:
    """Where a stretch begins and what it is drawn from.

    Attributes:
        position: Global number of its first row.
        samples_seen, epochs: Of the run before it.
        fingerprint: Of the corpus as it was, its first `sessions` and `shards`.
        rows: Of each source in a period of the mixture; empty where epochs are walked.
        batch: Rows of a step.
    """

    position: int
    samples_seen: int
    epochs: float
    fingerprint: str
    sessions: int
    shards: int
    rows: tuple[int, ...]
    batch: int


class Plan:
    """Rows of any position.

    Attributes:
        stretches: All, in order.
        sources: Of the last.
        renewed: Whether the run goes on with a corpus that does not begin with its own.
    """

    def __init__(
        self,
        corpus: Corpus,
        data: DataConfig,
        model: ModelConfig,
        seed: int,
        batch: int,
        once: Once,
        stretches: Sequence[dict] = (),
        place: Place | None = None,
        epochs: float = 0.0,
    ):
        """
        Args:
            corpus: As it is now.
            data, model, seed, batch: Of the run, as it goes on.
            once: How a pass over the index is made.
            stretches: Of the run so far.
            place: Where it goes on.
            epochs: Before that place, those of the run that its weights come from included.
        Raises:
            ResumeMismatch: The corpus is not the run's, nor does it begin with it.
        """
        self._run = corpus, data, model, seed, once
        self._seed, self._lanes = seed, data.lanes
        self._sources: dict[str, Sources] = {}
        self._mixtures: dict[int, Mixture] = {}
        manifest, place = corpus.manifest, place or Place()
        size = len(manifest.sessions), len(manifest.shards)
        # A corpus that a run was to go on with from its next epoch is forgotten until it does.
        before = [Stretch(**{**s, "rows": tuple(s["rows"])}) for s in stretches]
        first = [s for s in before[:1] if s.position == place.position]
        self.stretches = first or [s for s in before if s.position < place.position]
        self.renewed = bool(self.stretches) and not self._begins_with(self.stretches[-1])
        if self.renewed:  # nobody can find their rows again
            was = self.stretches.pop().fingerprint
            self.stretches.clear()
            log.warn(
                f"from row {place.position} on trained on another corpus, "
                f"{manifest.fingerprint[:12]} instead of {was[:12]} (data.another_corpus=true)"
            )
        if self.stretches:
            self._sources_of(self.stretches[-1])  # a pass over the index: here, where all ranks are
        now = Stretch(
            place.position, place.samples_seen, epochs, manifest.fingerprint, *size, (), batch
        )
        self.sources = self._sources_of(now)
        now = replace(now, rows=self.sources.by_weight(batch))
        if not self.stretches:
            self.stretches.append(now)
        elif self.stretches[-1].fingerprint != now.fingerprint or (
            now.rows and (self.stretches[-1].rows, self.stretches[-1].batch) != (now.rows, batch)
        ):
            self.stretches.append(self._after(self.stretches[-1], now, place))
        # Passes of a corpus are counted from where it came; other weights do not begin them anew.
        self._passed = {s.fingerprint: math.ceil(s.epochs) for s in reversed(self.stretches)}

    @property
    def shares(self) -> np.ndarray:
        """Share of all rows that each source has in the last stretch, (sources,)."""
        rows = np.array(self.stretches[-1].rows or [1.0])
        return rows / rows.sum()

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch."""
        return self.sources.epoch_rows(self.shares)

    def row(self, position: int) -> tuple[Source, int, np.ndarray]:
        """Source, epoch and sample numbers of a row."""
        at = self._at(position)
        stretch = self.stretches[at]
        sources = self._sources_of(stretch).every
        row, before = position - stretch.position, self._passed[stretch.fingerprint]
        lane, lanes = 0, 1
        number = 0
        if stretch.rows:
            mixture = self._mixture(at)
            number, lane, row = mixture.row(row)
            lanes = int(mixture.lanes[number])
        order = sources[number].order
        epoch, samples = order.of_lane(lane, lanes, row) if lanes > 1 else order.row(row)
        return sources[number], before + epoch, samples

    def epochs(self, place: Place) -> float:
        """Passes over the chosen windows before a place."""
        stretch = self.stretches[self._at(place.position)]
        seen = place.samples_seen - stretch.samples_seen
        return stretch.epochs + seen / self._sources_of(stretch).num_samples

    def state(self) -> list[dict]:
        """What a checkpoint keeps."""
        return [asdict(s) for s in self.stretches]

    def _at(self, position: int) -> int:
        """Number of the stretch that a row lies in."""
        at = bisect.bisect_right(self.stretches, position, key=lambda s: s.position) - 1
        if at < 0:
            raise ResumeMismatch(
                f"row {position} is of another corpus, which the run left at row "
                f"{self.stretches[0].position}; it cannot be found again"
            )
        return at

    def _begins_with(self, last: Stretch) -> bool:
        """Whether the corpus begins with the run's; ResumeMismatch where it has to."""
        corpus, data, *_ = self._run
        manifest = corpus.manifest
        if last.fingerprint == manifest.fingerprint:
            return True
        begun = manifest.sessions[: last.sessions], manifest.shards[: last.shards]
        if fingerprint(*begun, manifest.bin_size_ms, manifest.window_bins) == last.fingerprint:
            return True
        if data.another_corpus:
            return False
        raise ResumeMismatch(
            f"the run was trained on corpus {last.fingerprint[:12]}; {corpus.path} is "
            f"{manifest.fingerprint[:12]} and does not begin with it; "
            "data.another_corpus=true goes on with it all the same"
        )

    def _after(self, last: Stretch, now: Stretch, place: Place) -> Stretch:
        """The next stretch: weights change at once, a corpus after the epoch that has begun."""
        if now.rows:
            return replace(now, epochs=self.epochs(place))
        sources = self._sources_of(last)
        (rows,), samples = sources.rows.tolist(), sources.num_samples
        passes = -((last.position - place.position) // rows)
        return replace(
            now,
            position=last.position + passes * rows,
            samples_seen=last.samples_seen + passes * samples,
            epochs=last.epochs + passes,
        )

    def _sources_of(self, stretch: Stretch) -> Sources:
        size = stretch.fingerprint, stretch.sessions, stretch.shards
        if size[0] not in self._sources:
            self._sources[size[0]] = Sources(*self._run, *size)
        return self._sources[size[0]]

    def _mixture(self, at: int) -> Mixture:
        """The mixture of a stretch, whose sources go on where those of the one before are."""
        if at not in self._mixtures:
            stretch = self.stretches[at]
            orders = [s.order for s in self._sources_of(stretch).every]
            lanes = [lanes_of(self._lanes, stretch.batch, o.epoch_rows) for o in orders]
            begun = np.zeros((len(lanes), max(lanes)), np.int64)
            if at and self.stretches[at - 1].fingerprint == stretch.fingerprint:
                before = self._mixture(at - 1)
                turns = before.turns(stretch.position - self.stretches[at - 1].position)
                if before.lanes.tolist() == lanes:
                    begun = turns
                else:  # other lanes: each source begins its next pass
                    for i, order in enumerate(orders):
                        had = int(before.lanes[i])
                        begun[i] = next_pass(order, had, turns[i], lanes[i], max(lanes))
            key = stretch.fingerprint, self._seed, at
            self._mixtures[at] = Mixture(stretch.rows, lanes, stretch.batch, key, begun)
        return self._mixtures[at]


def next_pass(order: Order, had: int, turns: np.ndarray, lanes: int, most: int) -> np.ndarray:
    """Turns after which each of `lanes` lanes of a source begins a pass that none of `had` has.

    Args:
        order: Of the source.
        had: Lanes that it had.
        turns: Of each of them, (had or more,).
        lanes: That it has now.
        most: Length of the result; lanes that there are not have 0.
    """
    passes = 1 + max(int(turns[i]) // order.part(i, had)[1] for i in range(had))
    rows = [order.part(i, lanes)[1] for i in range(lanes)]
    return np.array([passes * r for r in rows] + [0] * (most - lanes))

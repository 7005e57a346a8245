"""Which row lies at each position of a run: its stretches, one after the other.

A stretch is what rows are drawn from as long as nothing changes: so many shards of the corpus, in
epochs or by weight. A run has one; another begins where it is resumed with other weights, or with
a corpus that was extended. All that there were stay in the state, so that any position can be found
again.
"""

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ndt3_dist import log
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.mixture import Mixture
from ndt3_dist.data.order import Place
from ndt3_dist.data.sources import Source, Sources
from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.shards.manifest import fingerprint


@dataclass(frozen=True)
class Stretch:
    """Where a stretch begins and what it is drawn from.

    Attributes:
        position: Global number of its first row.
        samples_seen, epochs: Of the run before it.
        fingerprint: Of the corpus as it was, its first `sessions` and `shards`.
        rows: Of each source in a period of the mixture; empty where epochs are walked.
    """

    position: int
    samples_seen: int
    epochs: float
    fingerprint: str
    sessions: int
    shards: int
    rows: tuple[int, ...]


class Plan:
    """Rows of any position.

    Attributes:
        stretches: All, in order.
        sources: Of the last.
        renewed: Whether the run goes on with a corpus that does not begin with its own.
    """

    def __init__(
        self,
        feed: Feed,
        stretches: Sequence[dict] = (),
        place: Place | None = None,
        epochs: float = 0.0,
    ):
        """
        Args:
            feed: Of the run, as it goes on.
            stretches: Of the run so far.
            place: Where it goes on.
            epochs: Before that place, those of the run that its weights come from included.
        Raises:
            ResumeMismatch: The corpus is not the run's, nor does it begin with it.
        """
        self._corpus, self._another = feed.corpus, feed.data.another_corpus
        self._make = functools.partial(Sources, feed)
        self._sources: dict[str, Sources] = {}
        self._mixtures: dict[int, Mixture] = {}
        manifest, place = feed.corpus.manifest, place or Place()
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
        now = Stretch(place.position, place.samples_seen, epochs, manifest.fingerprint, *size, ())
        self.sources = self._sources_of(now)
        now = replace(now, rows=self.sources.by_weight())
        if not self.stretches:
            self.stretches.append(now)
        elif (self.stretches[-1].fingerprint, self.stretches[-1].rows) != (
            now.fingerprint,
            now.rows,
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
        number = 0
        if stretch.rows:
            number, row = self._mixture(at).row(row)
        epoch, samples = sources[number].order.row(row)
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
        manifest = self._corpus.manifest
        if last.fingerprint == manifest.fingerprint:
            return True
        begun = manifest.sessions[: last.sessions], manifest.shards[: last.shards]
        size = manifest.bin_size_ms, manifest.window_bins, manifest.version
        if fingerprint(*begun, *size) == last.fingerprint:
            return True
        if self._another:
            return False
        raise ResumeMismatch(
            f"the run was trained on corpus {last.fingerprint[:12]}; {self._corpus.path} is "
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
            self._sources[size[0]] = self._make(*size)
        return self._sources[size[0]]

    def _mixture(self, at: int) -> Mixture:
        """The mixture of a stretch, whose sources go on where those of the one before are."""
        if at not in self._mixtures:
            stretch = self.stretches[at]
            begun = np.zeros(len(stretch.rows), np.int64)
            if at and self.stretches[at - 1].fingerprint == stretch.fingerprint:
                before = self.stretches[at - 1]
                begun = self._mixture(at - 1).had(stretch.position - before.position)
            self._mixtures[at] = Mixture(stretch.rows, begun)
        return self._mixtures[at]

"""Which row lies at each position of a run: its phases, one after the other.

A phase is what rows are drawn from as long as nothing changes: so many shards of the corpus, in
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
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.sources import Source, Sources
from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.shards.manifest import fingerprint


@dataclass(frozen=True)
class Phase:
    """Where a phase begins and what it is drawn from.

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
        phases: All, in order.
        sources: Of the last.
        renewed: Whether the run goes on with a corpus that does not begin with its own.
    """

    def __init__(
        self,
        feed: Feed,
        phases: Sequence[dict] = (),
        cursor: Cursor | None = None,
        epochs: float = 0.0,
    ):
        """
        Args:
            feed: Of the run, as it goes on.
            phases: Of the run so far.
            cursor: Where it goes on.
            epochs: Before that cursor, those of the run that its weights come from included.
        Raises:
            ResumeMismatch: The corpus is not the run's, nor does it begin with it.
        """
        self._corpus, self._another = feed.corpus, feed.data.another_corpus
        self._make = functools.partial(Sources, feed)
        self._sources: dict[str, Sources] = {}
        self._mixtures: dict[int, Mixture] = {}
        manifest, cursor = feed.corpus.manifest, cursor or Cursor()
        size = len(manifest.sessions), len(manifest.shards)
        # A corpus that a run was to go on with from its next epoch is forgotten until it does.
        before = [Phase(**{**s, "rows": tuple(s["rows"])}) for s in phases]
        first = [s for s in before[:1] if s.position == cursor.position]
        self.phases = first or [s for s in before if s.position < cursor.position]
        self.renewed = bool(self.phases) and not self._begins_with(self.phases[-1])
        if self.renewed:  # nobody can find their rows again
            was = self.phases.pop().fingerprint
            self.phases.clear()
            log.warn(
                f"from row {cursor.position} on trained on another corpus, "
                f"{manifest.fingerprint[:12]} instead of {was[:12]} (data.another_corpus=true)"
            )
        if self.phases:
            self._sources_of(self.phases[-1])  # a pass over the index: here, where all ranks are
        now = Phase(cursor.position, cursor.samples_seen, epochs, manifest.fingerprint, *size, ())
        self.sources = self._sources_of(now)
        now = replace(now, rows=self.sources.by_weight())
        if not self.phases:
            self.phases.append(now)
        elif (self.phases[-1].fingerprint, self.phases[-1].rows) != (
            now.fingerprint,
            now.rows,
        ):
            self.phases.append(self._after(self.phases[-1], now, cursor))
        # Passes of a corpus are counted from where it came; other weights do not begin them anew.
        self._passed = {s.fingerprint: math.ceil(s.epochs) for s in reversed(self.phases)}

    @property
    def shares(self) -> np.ndarray:
        """Share of all rows that each source has in the last phase, (sources,)."""
        rows = np.array(self.phases[-1].rows or [1.0])
        return rows / rows.sum()

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch."""
        return self.sources.epoch_rows(self.shares)

    def row(self, position: int) -> tuple[Source, int, np.ndarray]:
        """Source, epoch and sample numbers of a row."""
        at = self._at(position)
        phase = self.phases[at]
        sources = self._sources_of(phase).every
        row, before = position - phase.position, self._passed[phase.fingerprint]
        number = 0
        if phase.rows:
            number, row = self._mixture(at).row(row)
        epoch, samples = sources[number].order.row(row)
        return sources[number], before + epoch, samples

    def epochs(self, cursor: Cursor) -> float:
        """Passes over the chosen windows before a cursor."""
        phase = self.phases[self._at(cursor.position)]
        seen = cursor.samples_seen - phase.samples_seen
        return phase.epochs + seen / self._sources_of(phase).num_samples

    def state(self) -> list[dict]:
        """What a checkpoint keeps."""
        return [asdict(s) for s in self.phases]

    def _at(self, position: int) -> int:
        """Number of the phase that a row lies in."""
        at = bisect.bisect_right(self.phases, position, key=lambda s: s.position) - 1
        if at < 0:
            raise ResumeMismatch(
                f"row {position} is of another corpus, which the run left at row "
                f"{self.phases[0].position}; it cannot be found again"
            )
        return at

    def _begins_with(self, last: Phase) -> bool:
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
            "a run resumed with data.another_corpus=true goes on with it all the same"
        )

    def _after(self, last: Phase, now: Phase, cursor: Cursor) -> Phase:
        """The next phase: weights change at once, a corpus after the epoch that has begun."""
        if now.rows:
            return replace(now, epochs=self.epochs(cursor))
        sources = self._sources_of(last)
        (rows,), samples = sources.rows.tolist(), sources.num_samples
        passes = -((last.position - cursor.position) // rows)
        return replace(
            now,
            position=last.position + passes * rows,
            samples_seen=last.samples_seen + passes * samples,
            epochs=last.epochs + passes,
        )

    def _sources_of(self, phase: Phase) -> Sources:
        size = phase.fingerprint, phase.sessions, phase.shards
        if size[0] not in self._sources:
            self._sources[size[0]] = self._make(*size)
        return self._sources[size[0]]

    def _mixture(self, at: int) -> Mixture:
        """The mixture of a phase, whose sources go on where those of the one before are."""
        if at not in self._mixtures:
            phase = self.phases[at]
            begun = np.zeros(len(phase.rows), np.int64)
            if at and self.phases[at - 1].fingerprint == phase.fingerprint:
                before = self.phases[at - 1]
                begun = self._mixture(at - 1).rows_before(phase.position - before.position)
            self._mixtures[at] = Mixture(phase.rows, begun)
        return self._mixtures[at]

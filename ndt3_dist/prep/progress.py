"""How far a preparation is, and what its time went to: sessions, windows, hours by the second."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from ndt3_dist import log
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.shards.manifest import Session
from ndt3_dist.shards.summary import text_table

LEAST_HZ, MOST_HZ = 0.03, 500.0
"""Mean rates of a channel that nobody is asked about."""


class Progress:
    """Counts what session tasks return, and shows them as they come.

    Attributes:
        done, failed: Sessions.
        windows: That are kept.
        seconds: Of recordings.
    """

    def __init__(self, total: int):
        self.total, self.done, self.failed = total, 0, 0
        self.windows, self.seconds = 0, 0.0
        self.began = time.perf_counter()

    def each(self, running: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The items of `running`, while it is shown how many there were, and at which rates."""
        with log.counting("sessions", self.total) as step:
            for item in running:
                yield item
                step.more = self.rates()
                step.add()

    def add(self, spool: dict) -> None:
        """Count a finished session."""
        session = Session.model_validate(spool["session"])
        self.done += 1
        self.windows += sum(w.kept for w in session.windows.values())
        self.seconds += spool["seconds"]

    def rates(self) -> str:
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        return (
            f"{self.failed} failed, {self.windows / elapsed:.0f} windows/s, "
            f"{self.seconds / 3600 / elapsed:.3f} hours of recording/s"
        )

    def summary(self) -> str:
        elapsed = time.perf_counter() - self.began
        return f"{self.done} sessions in {elapsed:.1f} s: {self.rates()}"


def describe(spool: dict) -> str:
    """One line about a finished session."""
    session = Session.model_validate(spool["session"])
    kept = ", ".join(f"{w.kept} {split}" for split, w in session.windows.items()) or "no"
    rejected = sum(sum(w.rejected.values()) for w in session.windows.values())
    said = [f"{session.id}: {kept} windows, {rejected} rejected"]
    if session.spikes_outside:
        total = session.spikes + session.spikes_outside
        share = f"{100 * session.spikes_outside / total:.3g} %"
        said.append(f"{session.spikes_outside} of {total} spikes ({share}) outside its bins")
    if session.dropped_samples:
        said.append(f"{session.dropped_samples} covariate samples or times left out")
    done_before = " (done before)" if spool["reused"] else ""
    return "; ".join([*said, *spool.get("notes", ())]) + done_before


def warn_of_rate(recipe: Recipe, spool: dict) -> None:
    """Say where there are so few or many spikes that their times may be of another unit."""
    session = Session.model_validate(spool["session"])
    channels = spool.get("active", session.channels)
    if not channels:
        return
    rate = session.spikes * 1000 / recipe.bin_size_ms / (session.bins * channels)
    if not LEAST_HZ <= rate <= MOST_HZ:
        log.warn(
            f"{session.source}: {rate:.2g} spikes a second and channel in "
            f"{session.bins * recipe.bin_size_ms / 6e4:.0f} minutes; are its times in seconds?"
        )


class StageTimes:
    """Seconds of a job by stage; one begins where the one before it ends."""

    def __init__(self):
        self.begun: list[tuple[str, float]] = []

    def begin(self, stage: str) -> None:
        self.begun.append((stage, time.perf_counter()))

    def table(self) -> str:
        """Seconds and share of each stage up to now, and of all."""
        times = [t for _, t in self.begun] + [time.perf_counter()]
        took = [(name, b - a) for (name, a), b in zip(self.begun, times[1:], strict=True)]
        total = times[-1] - times[0]
        rows = [*took, ("all", total)]
        return text_table(
            [{"stage": n, "s": f"{s:.2f}", "share": f"{s / total:.0%}"} for n, s in rows]
        )

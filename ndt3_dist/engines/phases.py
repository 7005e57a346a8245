"""Where the time of a rank goes, and which rank's goes where the others' does not.

Each moment of a rank lies in one phase. On a CPU the clock is the host's. On a GPU a phase begins
and ends where the compute stream comes to its mark: what a device still computes counts for the
phase that asked for it, and nothing waits for it. `communication` is what is spent in collectives:
in those of a healthy rank lies the time that it waits for a slow one. Overlapped collectives count
where the stream waits for them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

DATA, FORWARD, BACKWARD, OPTIMISER = "data", "forward", "backward", "optimiser"
COMMUNICATION, CHECKPOINT, COMMIT, OTHER = "communication", "checkpoint", "commit", "other"
OWN: tuple[str, ...] = DATA, FORWARD, BACKWARD, OPTIMISER, CHECKPOINT
"""Phases that are work of every rank alike. The first rank alone makes a checkpoint exist and
deletes old ones, in `commit`, and writes metrics, in `other`."""
PHASES = *OWN, COMMUNICATION, COMMIT, OTHER
OUTSIDE = DATA, CHECKPOINT
"""Phases that a disk or a store may make slow for all ranks."""
RATIO, SHARE, LEAST_S = 1.5, 0.1, 1.0
"""A rank is slow whose phase takes so many times the median of the others, and more than it by so
much of the window's time, and by so many seconds; in two windows in a row that have the phase."""
MOST = 0.5
"""Share of the time of all ranks from which a disk or a store is slow for all."""


class Phases:
    """The clock of one rank.

    Attributes:
        now: The phase that the host is in.
        moves: How often anything has gone on; a rank whose number stands still is stuck.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.now, self.moves = OTHER, 0
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.since = time.perf_counter()
        self.marks: list[tuple[str, Any]] = []  # phases of a GPU, each with its beginning
        self.spare: list[Any] = []
        on_gpu = torch.device(device).type == "cuda"
        self.stream = torch.cuda.current_stream(device) if on_gpu else None
        if self.stream:
            self._mark(OTHER)

    def switch(self, phase: str) -> str:
        """Begin a phase; returns the one that ends."""
        before, self.now = self.now, phase
        self.moves += 1
        if self.stream:
            self._mark(phase)
            return before
        now = time.perf_counter()
        self.seconds[before] += now - self.since
        self.since = now
        return before

    @contextmanager
    def at(self, phase: str) -> Iterator[None]:
        """A block in a phase; one within another interrupts it."""
        before = self.switch(phase)
        try:
            yield
        finally:
            self.switch(before)

    def timed(self, phase: str, call: Callable) -> Callable:
        """A call in a phase; also the wait for what it has only begun."""

        def within(*args, **kwargs):
            if torch.compiler.is_compiling():
                return call(*args, **kwargs)
            with self.at(phase):
                found = call(*args, **kwargs)
            return Begun(found, self, phase) if hasattr(found, "wait") else found

        return within

    def moved(self) -> None:
        """Something has gone on within a phase; any thread may say so."""
        self.moves += 1

    def take(self) -> np.ndarray:
        """Seconds of each phase since the last call, (phases,) float64.

        On a GPU, those that have ended there by now; the rest comes with the next call.
        """
        self.switch(self.now)
        if self.stream:
            self._read()
        found = np.array([self.seconds[phase] for phase in PHASES])
        self.seconds = dict.fromkeys(PHASES, 0.0)
        return found

    def _mark(self, phase: str) -> None:
        event = self.spare.pop() if self.spare else torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        self.marks.append((phase, event))

    def _read(self) -> None:
        passed = 0
        while passed + 1 < len(self.marks) and self.marks[passed + 1][1].query():
            (phase, began), (_, ended) = self.marks[passed : passed + 2]
            self.seconds[phase] += began.elapsed_time(ended) / 1e3
            self.spare.append(began)
            passed += 1
        self.marks = self.marks[passed:]


class Begun:
    """A collective that was begun; waiting for it is in a phase."""

    def __init__(self, work: Any, phases: Phases, phase: str):
        self.work, self.wait = work, phases.timed(phase, work.wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.work, name)


class SlowRanks:
    """Names ranks that are slow, window by window, each once until it is over."""

    def __init__(self, hosts: Sequence[str]):
        """
        Args:
            hosts: Of the ranks, in their order.
        """
        self.names = [f"rank {rank} (host {host})" for rank, host in enumerate(hosts)]
        self.suspected: dict[str, set[int]] = {phase: set() for phase in OWN}
        self.named: dict[str, set[int]] = {phase: set() for phase in OWN}

    def lines(self, seconds: np.ndarray, steps: int) -> list[str]:
        """What is to be said after a window.

        Args:
            seconds: Of each rank and phase, (ranks, phases).
            steps: Of the window.
        """
        said = []
        for phase in OWN:
            if seconds[:, PHASES.index(phase)].max() < 1e-3:
                continue  # as windows without a checkpoint, which say nothing of the next one
            found = slow_at(seconds, phase)
            named = self.named[phase]
            for rank in sorted(found & self.suspected[phase] - named):
                said.append(f"warning: {self._slow(rank, seconds, phase, steps)}")
                named.add(rank)
            for rank in sorted(named - found - self.suspected[phase]):
                said.append(f"{self._who(rank)} no longer slow at {phase}")
                named.discard(rank)
            self.suspected[phase] = found
        return said

    def _who(self, rank: int) -> str:
        all_of_several = rank < 0 and len(self.names) > 1
        return "all ranks are" if all_of_several else f"{self.names[max(rank, 0)]} is"

    def _slow(self, rank: int, seconds: np.ndarray, phase: str, steps: int) -> str:
        own = seconds[:, PHASES.index(phase)] / steps
        if rank < 0:
            took = of_all(seconds, phase)
            share = took / np.median(seconds.sum(axis=1))
            took = f"{short(took / steps)} of each step, {share:.0%} of the time"
            return f"{self._who(rank)} slow at {phase}: {took}"
        others = short(np.median(np.delete(own, rank)))
        took = f"{short(own[rank])} of each step, the others {others}"
        return f"{self._who(rank)} slow at {phase}: {took}"


def slow_at(seconds: np.ndarray, phase: str) -> set[int]:
    """Ranks that are slow in a phase of a window, and that the others wait for; -1 = all are."""
    spent, window = seconds[:, PHASES.index(phase)], np.median(seconds.sum(axis=1))
    waited = seconds[:, PHASES.index(COMMUNICATION)]
    least, found = max(LEAST_S, SHARE * window), set()
    for rank, own in enumerate(spent if len(spent) > 1 else ()):
        usual = np.median(np.delete(spent, rank))
        waiting = np.median(np.delete(waited, rank)) - waited[rank]
        if own > RATIO * usual and own - usual > least and waiting > (own - usual) / 2:
            found.add(rank)
    if not found and phase in OUTSIDE and of_all(seconds, phase) > max(LEAST_S, MOST * window):
        found.add(-1)
    return found


def of_all(seconds: np.ndarray, phase: str) -> float:
    """Seconds of a phase that all ranks spend, or wait for the first to."""
    own, first = seconds[:, PHASES.index(phase)], seconds[0, PHASES.index(COMMIT)]
    return float(np.median(own) + (first if phase == CHECKPOINT else 0))


def phase_metrics(seconds: np.ndarray, steps: int) -> dict[str, float]:
    """Of each phase the seconds of a step, and the rank, where they are most."""
    found: dict[str, float] = {}
    for phase, own in zip(PHASES, seconds.T, strict=True):
        found |= {f"{phase}_s": float(own.max()) / steps, f"{phase}_rank": int(own.argmax())}
    return found


def short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"

"""What happened to a run and when: starts, saves that are still there, faults; and if it lives.

Times are those of files and of starts.jsonl, each by the clock of whoever wrote it. What cannot be
read is left out and said, and never ends the reader.
"""

import json
import math
import time
from dataclasses import dataclass
from datetime import datetime

from ndt3_dist import storage
from ndt3_dist.checkpoint.steps import META, step_folder
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.pages.columns import LARGEST_STEP
from ndt3_dist.pages.follow import Look, look, read
from ndt3_dist.train.faults import FOLDER
from ndt3_dist.train.settings import LEASE, STARTS

LIVE_S = 30.0
"""A run whose mark is older than this, by its clock and by ours, was killed: six beats of it."""
MOST_EVENTS = 500
"""The newest of each kind."""
MOST_STARTS = 1 << 20
"""Bytes of starts.jsonl, its end."""
DAMAGE = ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError
"""What a file of a stranger's run may lead to where it is not as it should be."""
TAIL = 4096
LIVE, OVER, STOPPED, KILLED, EMPTY = "live", "over", "stopped", "killed", "empty"
"""A run is at work; has reached its end; was asked to stop, or ended by a fault; was killed, so
that its mark stays; or has no step yet."""


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time: Seconds since 1970; NaN where nothing says it.
        kind: start, resume, save or fault.
        step: That it was behind; None = unknown.
        text: What else is known.
    """

    time: float
    kind: str
    step: int | None
    text: str


def plain(text: str, most: int = 300) -> str:
    """A text of a run's files for a terminal and a page: one line, no control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= most else line[: most - 3] + "..."


class RunEvents:
    """The events of a run; what does not change is read once.

    Attributes:
        starts, saves, faults: In order of time.
        problem: What could not be read, in a line; "" = nothing.
    """

    def __init__(self, run: str):
        self.run, self.problem = run, ""
        self.starts: list[Event] = []
        self.saves: list[Event] = []
        self.faults: list[Event] = []
        self._starts_tag, self._known_saves, self._known_faults = "", {}, {}
        self.last_start: dict = {}

    def update(self) -> None:
        """Look for new ones. Raises StoreFailed, OSError."""
        self._read_starts()
        names = storage.list_names(storage.join(self.run, "steps"))
        steps = [name for name in names if name.isascii() and name.isdigit()][-MOST_EVENTS:]
        self._known_saves = {n: e for n, e in self._known_saves.items() if n in steps}
        for name in steps:
            if name not in self._known_saves:
                found = look(storage.join(step_folder(self.run, int(name)), META))
                if found:
                    self._known_saves[name] = Event(found.modified, "save", int(name), "")
        self.saves = [self._known_saves[name] for name in steps if name in self._known_saves]
        folder = storage.join(self.run, FOLDER)
        for name in storage.list_names(folder)[-MOST_EVENTS:]:
            if name not in self._known_faults:
                self._known_faults[name] = self._fault(storage.join(folder, name), name)
        self.faults = sorted(self._known_faults.values(), key=lambda event: event.time)

    def all(self) -> list[Event]:
        """In order of time."""
        events = [*self.starts, *self.saves, *self.faults]
        return sorted(events, key=lambda e: e.time if math.isfinite(e.time) else 0.0)

    def _read_starts(self) -> None:
        path = storage.join(self.run, STARTS)
        now = look(path)
        tag = now.tag if now else ""
        if tag == self._starts_tag:
            return
        self.problem, self.starts = "", []
        self._known_saves = {}  # a step that is run again is saved again
        size = now.size if now else 0
        text = read(path, max(0, size - MOST_STARTS), MOST_STARTS if now else 0)
        for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
            try:
                self.starts.append(self._start(json.loads(line)))
            except DAMAGE:
                self.problem = f"{STARTS}: line {number} tells no start"
        self.starts = self.starts[-MOST_EVENTS:]
        self._starts_tag = tag

    def _start(self, entry: dict) -> Event:
        step, when = int(entry["from_step"]), datetime.fromisoformat(entry["time"]).timestamp()
        if not 0 <= step <= LARGEST_STEP:
            raise ValueError(step)
        parts = [f"{entry['ranks']} ranks"] if "ranks" in entry else []
        parts += [str(entry["device"])] if "device" in entry else []
        parts += [f"from {entry['init']}"] if "init" in entry else []
        for key, values in dict(entry.get("changed", {})).items():
            old, new = values
            parts.append(f"{key} {old} -> {new}")
        self.last_start = entry
        return Event(when, "resume" if step else "start", step, plain(", ".join(parts)))

    def _fault(self, path: str, name: str) -> Event:
        """Of a fault's file: its last line says what it was."""
        try:
            found = look(path)
            size = found.size if found else 0
            text = read(path, max(0, size - TAIL), min(size, TAIL)).decode(errors="replace")
        except (OSError, Ndt3DistError) as e:
            return Event(math.nan, "fault", None, plain(f"{name}: cannot be read ({e})"))
        said = [line for line in text.splitlines() if line.strip()]
        when = found.modified if found else math.nan
        return Event(when, "fault", None, plain(f"{name}: {said[-1] if said else 'empty'}"))


class Pulse:
    """Whether a run is at work, by the mark that its writer renews; looked at again and again."""

    def __init__(self, run: str):
        self.run, self._tag, self._moved = run, "", -math.inf

    def state(self, metrics: Look | None, is_done: bool, is_tune: bool) -> str:
        """LIVE, OVER, STOPPED, KILLED or EMPTY.

        Args:
            metrics: A look at metrics.jsonl.
            is_done: Whether its last step is the last one that its settings ask for.
            is_tune: Whether it is a fine-tune, which has no mark and ends with an export.
        Raises:
            StoreFailed, OSError: Nobody can say.
        """
        mark = metrics if is_tune else look(storage.join(self.run, LEASE))
        if is_tune and look(storage.join(self.run, "export", "config.json")):
            return OVER
        if mark:
            if self._tag and mark.tag != self._tag:
                self._moved = time.monotonic()
            self._tag = mark.tag
            newest = max(mark.modified, metrics.modified if metrics else 0.0)
            if time.monotonic() - self._moved < LIVE_S or abs(time.time() - newest) < LIVE_S:
                return LIVE
            if not is_tune:
                return KILLED
        if metrics is None or not metrics.size:
            return EMPTY
        return OVER if is_done else STOPPED

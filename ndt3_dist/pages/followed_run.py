"""A run on a disk or in a store as it stands, again and again: steps, speed, end, events, state."""

import math
import time
from typing import Any

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.pages.columns import LARGEST_STEP, Columns
from ndt3_dist.pages.follow import GrowingFile, look, read
from ndt3_dist.pages.run_config import parse_config, positive
from ndt3_dist.pages.run_events import EMPTY, Pulse, RunEvents, plain
from ndt3_dist.train import run_metrics, settings

CONFIGS = settings.FILE, "config.json"
"""Of a pretraining, and of a fine-tune."""
RECENT = 200
"""Steps from which speed and end are told."""
TAIL = 16 << 10
"""Bytes of a glimpse."""
AROUND_S = {False: 2.0, True: 30.0}
"""Between two looks for events and settings, on a disk and in a store."""


class FollowedRun:
    """A run, read on at every `update`.

    Attributes:
        path, name: Of its folder.
        columns: Its metrics.
        events: What happened to it.
        config: Its settings, values as text; {} where it has none.
        state: One of `run_events`.
        left: Bytes of metrics.jsonl that are still to be read.
        cut: Steps that its last cut went back behind; None = none since it was asked for.
        problem: What could not be read, in a line; "" = nothing.
    """

    def __init__(self, path: str):
        self.path, self.name = path, path.rstrip("/").rsplit("/", 1)[-1]
        self.file = GrowingFile(storage.join(path, run_metrics.FILE))
        self.columns, self.events, self.pulse = Columns(), RunEvents(path), Pulse(path)
        self.config: dict[str, Any] = {}
        self.state, self.left, self.version = EMPTY, 0, 0
        self.cut: int | None = None
        self.faults = {"metrics": "", "around": "", "config": ""}
        self._config_tag, self._around = "", -math.inf

    @property
    def problem(self) -> str:
        told = [*self.faults.values(), self.events.problem]
        if self.columns.damaged:
            more = f" ({self.columns.damaged} damaged lines)" if self.columns.damaged > 1 else ""
            told.append(f"{run_metrics.FILE}: {self.columns.first_damage}{more}; the rest is shown")
        return "; ".join(text for text in told if text)

    def glimpse(self) -> bool:
        """Look at the last lines and the settings alone, for a list of many; whether they changed.

        `columns` then hold these lines only.
        """
        before, tag = self.version, self.file.seen.tag if self.file.seen else ""
        try:
            now = self.file.seen = look(self.file.path)
            if now and now.tag != tag:
                start = max(0, now.size - TAIL)
                lines = read(self.file.path, start, TAIL).split(b"\n")
                self.columns = Columns()
                self.columns.take(list(lines[bool(start) : -1]), 0)
                self.version += 1
            if not self._config_tag:
                self._read_config()
            state = self.pulse.state(now, self.is_done, self.is_tune)
            self.version += state != self.state
            self.state = state
            self._tell("metrics", "")
        except (OSError, Ndt3DistError) as e:
            self._tell("metrics", _said(e, run_metrics.FILE))
        return self.version != before

    def update(self, seconds: float = 1.0) -> bool:
        """Read what is new, for at most so long; whether anything is.

        A store that does not answer is a `problem`, until it does.
        """
        before, until = self.version, time.monotonic() + seconds
        try:
            while True:
                first, news = self.file.last.lines, self.file.more()
                forgotten, columns = [], self.columns
                if news.kept is not None:
                    forgotten, first = columns.cut(news.kept), news.kept
                rows = columns.rows
                if news.lines:
                    columns.take(news.lines, first)
                if news.kept is not None:
                    rows += columns.again(rows, forgotten)
                    self.cut = int(columns.steps[rows - 1]) if rows else 0
                self.version += bool(news.lines) or news.kept is not None
                self.left = news.left
                if not news.left or time.monotonic() > until:
                    break
            self._tell("metrics", "")
        except (OSError, Ndt3DistError) as e:
            self._tell("metrics", _said(e, run_metrics.FILE))
        if time.monotonic() - self._around > AROUND_S[storage.is_remote(self.path)]:
            self._look_around()
            self._around = time.monotonic()
        return self.version != before

    def _look_around(self) -> None:
        before = self.state, self.events.all()
        try:
            self._read_config()
            self.events.update()
            self.state = self.pulse.state(self.file.seen, self.is_done, self.is_tune)
            self._tell("around", "")
        except (OSError, Ndt3DistError) as e:
            self._tell("around", _said(e, "events and settings"))
        self.version += before != (self.state, self.events.all())

    def _tell(self, where: str, fault: str) -> None:
        self.version += fault != self.faults[where]
        self.faults[where] = fault

    def _read_config(self) -> None:
        for name in CONFIGS:
            path = storage.join(self.path, name)
            if now := look(path):
                break
        else:
            return
        if now.tag != self._config_tag:
            self.config, fault = parse_config(read(path, 0, min(now.size, 1 << 20)), name)
            self._tell("config", fault)
            self._config_tag = now.tag
            self.version += 1

    @property
    def is_tune(self) -> bool:
        return "steps" in self.section("train")

    def section(self, name: str) -> dict:
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def step(self) -> int:
        """The last one; 0 = none."""
        return int(self.columns.steps[-1]) if self.columns.rows else 0

    @property
    def total(self) -> int | None:
        """About how many steps it takes to the end; None where nothing says it."""
        train = self.section("train")
        limits = [positive(train.get(key)) for key in ("steps", "max_steps")]
        if (passes := positive(train.get("epochs"))) and not self.is_tune:
            limits.append(self._last_of(passes))
        known = [limit for limit in limits if limit and limit <= LARGEST_STEP]
        return int(min(known)) if known else None

    def _last_of(self, passes: float) -> float | None:
        """About the last step of so many passes over the data."""
        columns = self.columns
        epochs, samples = (columns.of(key)[-RECENT:].astype(float) for key in ("epochs", "samples"))
        made = epochs[-1] - epochs[0] if len(epochs) > 1 else math.nan
        if not made > 0:
            return None
        each, windows = made / (columns.steps[-1] - columns.steps[-len(epochs)]), samples[:-1].sum()
        last_step = samples[-1] * made / windows if windows > 0 else each
        left = (passes - epochs[-1] - last_step) / each  # a line has the passes before its step
        return self.step + max(0, math.ceil(left - 1e-6)) if math.isfinite(left) else None

    @property
    def is_done(self) -> bool:
        total = self.total
        return total is not None and self.step >= total > 0

    def recent(self, key: str) -> float:
        """Mean of the last steps' finite values; NaN where there are none."""
        values = self.columns.of(key)[-RECENT:].astype(float)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan

    def last(self, key: str) -> float:
        """The last finite value; NaN where there is none."""
        values = self.columns.of(key)
        known = np.flatnonzero(np.isfinite(values))
        return float(values[known[-1]]) if len(known) else math.nan

    @property
    def step_seconds(self) -> float:
        """Of the last steps, validations included; NaN where there are none."""
        if not self.columns.rows:
            return math.nan
        hours = self.columns.along("time")[-RECENT:]
        if len(hours) == 1:
            return self.last("step_s")
        return 3600 * float(hours[-1] - hours[0]) / (len(hours) - 1)

    @property
    def seconds_left(self) -> float:
        """To the end at the speed of the last steps; NaN where the end is not known."""
        return (
            math.nan if self.total is None else max(self.total - self.step, 0) * self.step_seconds
        )

    def scores(self) -> list[str]:
        """Keys of what validation found on all sessions together, its times left out."""
        keys = [k for k in self.columns.names() if k.startswith("val_") and "/" not in k]
        return [key for key in keys if key != "val_s"]


def _said(error: Exception, what: str) -> str:
    """An error in a line that says of what it is."""
    text = plain(log.without_secrets(" ".join(str(error).split())))
    return text if what in text else f"{what}: {text}"

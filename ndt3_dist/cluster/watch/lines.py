"""A run as plain lines as they come: steps as its console had them, validations, events."""

import math
from collections.abc import Iterator

import numpy as np

from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.run_config import positive
from ndt3_dist.pages.run_events import Event, plain
from ndt3_dist.train.run_metrics import console_line, validation_line

SHOWN = "loss", "grad_norm", "tokens", "step_s", "wait_s", "memory_gb"
"""What a line of a step needs; NaN where it is not there."""

WORDS = {"start": "start", "resume": "resumed from the end", "save": "checkpoint", "fault": "fault"}


class Lines:
    """What there is to say of a run since the last time.

    Attributes:
        every: Steps of a line; 0 = as its log.every_steps says.
    """

    def __init__(self, run: FollowedRun, every: int = 0, before: int = 10):
        """
        Args:
            before: Lines of steps that were there already.
        """
        self.run, self.every, self.before = run, every, before
        self._step: int | None = None
        self._state, self._problem = "", ""
        self._seen: set[Event] = set()

    def new(self) -> Iterator[str]:
        """Lines of what came since, events first."""
        run = self.run
        if run.cut is not None:
            if self._step is not None and run.cut < self._step:
                yield f"back behind step {run.cut}: what followed is run again"
                self._step = run.cut
            run.cut = None
        yield from self._events(run.events.all())
        yield from self._steps()
        if run.state != self._state:
            self._state = run.state
            yield f"{plain(run.name)} is {run.state} at step {run.step}"
        if run.problem != self._problem:
            self._problem = run.problem
            yield f"warning: {plain(run.name)}: {run.problem or 'can be read again'}"

    def _events(self, events: list[Event]) -> Iterator[str]:
        if self._step is None and not self._seen:  # what is long over is not told again
            self._seen = {*events} - {*self.run.events.starts[-1:]}
        for event in events:
            if event not in self._seen:
                step = "" if event.step is None else f" of step {event.step}"
                yield f"{WORDS[event.kind]}{step}{': ' * bool(event.text)}{event.text}"
        self._seen = {*events}

    def _steps(self) -> Iterator[str]:
        steps = self.run.columns.steps
        every = self.every or self._every()
        rows = np.arange(len(steps))
        scored = np.zeros(len(steps), bool)
        for key in self.run.scores():
            scored |= np.isfinite(self.run.columns.of(key))
        shown = rows[(steps % every == 0) | scored]
        if self._step is None:
            shown = shown[max(0, len(shown) - self.before) :]
        else:
            shown = shown[steps[shown] > self._step]
        for row in shown.tolist():
            yield from self._line(row, int(steps[row]))
        self._step = int(steps[-1]) if len(steps) else self._step

    def _every(self) -> int:
        found = self.run.section("log").get("every_steps")
        return int(positive(found) or 1)

    def _line(self, row: int, step: int) -> Iterator[str]:
        values = dict.fromkeys(SHOWN, math.nan) | self.run.columns.at(row)
        total = self.run.total
        left = math.nan if total is None else max(total - step, 0) * self.run.step_seconds
        yield console_line(step, total, values, left)
        if "val_s" in values:
            yield validation_line(step, values, self._best(row))

    def _best(self, row: int) -> int:
        """The step that was the best of all validations up to one."""
        scores, key = self.run.scores(), self.run.section("validation").get("metric")
        key = key if key in scores else (scores or ["val_loss"])[0]
        values = self.run.columns.of(key)[: row + 1].astype(float)
        if not np.isfinite(values).any():
            return 0
        best = np.nanargmin(values) if key.startswith("val_loss") else np.nanargmax(values)
        return int(self.run.columns.steps[best])

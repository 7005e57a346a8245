"""The lines of a metrics.jsonl as columns, a million of them without a stall, damaged ones named.

A column takes 4 bytes a step (float32, what a picture needs), those of `EXACT` 8.
"""

import itertools
import json
import math
from typing import Any

import numpy as np

from ndt3_dist.pages.follow import MARK_EVERY

MOST_KEYS = 2000
"""Other keys are left out; a run has some dozens."""
FIRST_ROOM = 256
LARGEST = 3e38
"""Value that float32 holds."""
FARTHEST = 100_000
"""Steps from one line to the next: what leads further is damage, not the next step."""
LARGEST_STEP = 10**9
EXACT = {"epochs", "position"}
DERIVED = {"tokens_per_s": ("tokens", "step_s"), "waiting_for_data_share": ("wait_s", "step_s")}
"""Columns that are one column over another."""
AXES = {"step": "step", "tokens": "tokens", "time": "hours of training"}
"""What curves can be drawn by."""


class Columns:
    """The metrics of a run by key.

    Attributes:
        rows: Steps that are there.
        version: Grows with every change.
        damaged: Lines that are none of metrics.
        first_damage: Number and fault of the first of them; "" = none.
    """

    def __init__(self):
        self.rows, self.version = 0, 0
        self._steps, self._lines = np.empty(FIRST_ROOM, np.int64), np.empty(FIRST_ROOM, np.int64)
        self._of: dict[str, np.ndarray] = {}
        self._damage: list[tuple[int, str]] = []
        self.damaged = 0
        self._sums: dict[str, np.ndarray] = {}

    @property
    def steps(self) -> np.ndarray:
        """(rows,), each greater than the one before."""
        return self._steps[: self.rows]

    @property
    def num_bytes(self) -> int:
        held = [self._steps, self._lines, *self._of.values(), *self._sums.values()]
        return sum(column.nbytes for column in held)

    @property
    def first_damage(self) -> str:
        return f"line {self._damage[0][0] + 1} {self._damage[0][1]}" if self._damage else ""

    def names(self) -> list[str]:
        """In the order in which they came, derived ones last."""
        derived = [k for k, needs in DERIVED.items() if {*needs} <= {*self._of}]
        return [*self._of, *derived]

    def of(self, key: str) -> np.ndarray:
        """(rows,), NaN where a step has none."""
        if key in DERIVED and key not in self._of:
            above, below = (self.of(k).astype(float) for k in DERIVED[key])
            return above / np.maximum(below, 1e-9)
        if key not in self._of:
            return np.full(self.rows, math.nan, np.float32)
        return self._of[key][: self.rows]

    def at(self, row: int) -> dict[str, float]:
        """The finite values of one step."""
        found = {key: float(column[row]) for key, column in self._of.items()}
        return {key: value for key, value in found.items() if math.isfinite(value)}

    def along(self, axis: str) -> np.ndarray:
        """Where each step lies on one of `AXES`, (rows,), float64, never falling."""
        if axis == "step":
            return self.steps.astype(float)
        if axis not in self._sums:
            if axis == "tokens":
                each = np.nan_to_num(self.of("tokens").astype(float))
            else:
                seconds = [np.nan_to_num(self.of(k).astype(float)) for k in ("step_s", "val_s")]
                each = (seconds[0] + seconds[1]) / 3600
            self._sums[axis] = np.cumsum(np.maximum(each, 0))
        return self._sums[axis]

    def cut(self, lines: int) -> list[dict[str, float]]:
        """Forget what came behind so many lines of the file.

        Returns:
            The first steps that are forgotten, as `at` has them: some may come again as they were.
        """
        rows = int(np.searchsorted(self._lines[: self.rows], lines))
        forgotten = [self.at(row) for row in range(rows, min(rows + MARK_EVERY, self.rows))]
        self.rows = rows
        self._damage = [damage for damage in self._damage if damage[0] < lines]
        self.damaged = min(self.damaged, len(self._damage))
        self._sums.clear()
        self.version += 1
        return forgotten

    def again(self, rows: int, forgotten: list[dict[str, float]]) -> int:
        """Steps behind so many rows that came again as they were."""
        now = range(rows, min(rows + len(forgotten), self.rows))
        same = (self.at(row) == before for row, before in zip(now, forgotten, strict=False))
        return sum(itertools.takewhile(bool, same))

    def take(self, lines: list[bytes | None], first: int) -> None:
        """Add lines of the file.

        Args:
            lines: As `follow.News` has them.
            first: Lines before them.
        """
        numbers, found = [], []
        last = int(self._steps[self.rows - 1]) if self.rows else -1
        known = parse_all(lines)
        for number, line in enumerate(lines, first):
            if known:  # the usual case, at twice the speed
                values, fault = known[number - first], ""
                if type(values.get("step")) is not int or values["step"] != last + 1:
                    values, fault = parse(line, last)
            else:
                values, fault = parse(line, last)
            if fault:
                self._note(number, fault)
            if values:
                last = values["step"]
                numbers.append(number)
                found.append(values)
        if found:
            self._add(numbers, found)
        if lines:
            self._sums.clear()
            self.version += 1

    def _note(self, number: int, fault: str) -> None:
        self.damaged += 1
        if len(self._damage) < 1000:
            self._damage.append((number, fault))

    def _add(self, numbers: list[int], found: list[dict]) -> None:
        start, self.rows = self.rows, self.rows + len(found)
        if self.rows > len(self._steps):
            room = max(self.rows, 2 * len(self._steps))
            self._steps, self._lines = _wider(self._steps, room), _wider(self._lines, room)
            self._of = {key: _wider(column, room) for key, column in self._of.items()}
        self._steps[start : self.rows] = [values["step"] for values in found]
        self._lines[start : self.rows] = numbers
        for column in self._of.values():
            column[start : self.rows] = math.nan
        for key in dict.fromkeys(key for values in found for key in values if key != "step"):
            if key not in self._of:
                if len(self._of) >= MOST_KEYS or len(key) > 200:
                    continue
                kind = np.float64 if key in EXACT else np.float32
                self._of[key] = np.full(len(self._steps), math.nan, kind)
            column = self._of[key][start : self.rows]
            try:
                with np.errstate(over="ignore"):
                    column[:] = [values.get(key) for values in found]
            except (TypeError, ValueError, OverflowError):  # some are no numbers
                column[:] = [_number(values.get(key)) for values in found]
            for row in np.flatnonzero(np.isinf(column))[:1]:
                self._note(numbers[row], f"has {key} beyond {LARGEST:g} or no number there")
            column[np.isinf(column)] = math.nan


def parse_all(lines: list[bytes | None]) -> list[dict] | None:
    """All lines at once; None where one of them is not as it should be."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        text = b"[" + b",".join(lines) + b"]"  # pyright: ignore[reportArgumentType]
        found = json.loads(text, parse_constant=refuse)
    except (TypeError, ValueError, RecursionError):
        return None
    whole = len(found) == len(lines) and all(type(values) is dict for values in found)
    return found if whole else None


def parse(line: bytes | None, last: int) -> tuple[dict | None, str]:
    """A line's values, or None; and what is wrong with it, "" = nothing.

    Args:
        last: Step of the line before.
    """
    if line is None:
        return None, "does not end"
    strange: list[str] = []
    try:
        found = json.loads(line, parse_constant=strange.append)
    except (ValueError, RecursionError):  # of text that is no UTF-8, too
        return None, "is no JSON"
    if not isinstance(found, dict):
        return None, "is no JSON object"
    step = found.get("step")
    if type(step) is not int or not 0 <= step < LARGEST_STEP:
        return None, "has no step"
    if last >= 0 and not 0 < step - last <= FARTHEST:
        return None, f"has step {step} behind step {last}"
    return found, f"has {strange[0]}, which is no number" if strange else ""


def _number(value: Any) -> float:
    """A value as float32 holds it; NaN for None, infinity for what is no such number."""
    if value is None:
        return math.nan
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < LARGEST else math.inf


def _wider(column: np.ndarray, room: int) -> np.ndarray:
    wide = np.full(room, math.nan if column.dtype.kind == "f" else 0, column.dtype)
    wide[: len(column)] = column
    return wide

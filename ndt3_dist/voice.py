"""How far a program is: bars on a terminal, elsewhere a line whenever it was silent for too long.

Steps lie within each other, and one thread speaks for all of them. Elsewhere than on a terminal it
says a line on standard error two seconds after a step began, then one every ten seconds, and none
while other lines come.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

FIRST_S, EVERY_S = 2.0, 10.0
"""Silence before the first line of a step, and before those that follow."""
BAR_S = 1.0
"""Between two refreshes of a bar that does not move."""
POLL_S = 0.5


class Step:
    """A step that is under way, and how far.

    Attributes:
        label: What is done.
        total: Of how many; None = it cannot be counted.
        done: So many, those of `before` included, which took no time.
        unit: Of both: B for bytes, else a word or nothing.
        more: What else there is to say.
    """

    def __init__(self, label: str, total: int | None = None, before: int = 0, unit: str = ""):
        self.label, self.total, self.before, self.unit = label, total, before, unit
        self.done, self.more = before, ""
        self.began, self.told = 0.0, False
        self.stream, self.bar = sys.stderr, None  # what is redirected later is not for it

    def add(self, number: int = 1) -> None:
        """So many more are done."""
        self.done += number
        if self.bar is not None:
            self.bar.set_postfix_str(self.more, refresh=False)
            self.bar.update(number)

    def show(self) -> None:
        """Show a bar; one that only counts seconds where there is no total."""
        from tqdm import tqdm

        options: dict[str, Any] = {"file": self.stream, "leave": False, "desc": self.label}
        if self.total is None and not self.done:
            options["bar_format"] = "{desc}: {elapsed}"
        if self.unit == "B":
            options |= {"unit": "B", "unit_scale": True}
        self.bar = tqdm(total=self.total, initial=self.before, **options)

    def text(self, now: float) -> str:
        """A line's part: done, total and the time that is left, or the time so far."""
        took, made = now - self.began, self.done - self.before
        if self.total is None and not made:
            return f"{self.label}: {duration(took)} so far"
        size, unit = (1e6, " MB") if self.unit == "B" else (1, f" {self.unit}".rstrip())
        of = "" if self.total is None else f" of {self.total / size:.0f}"
        text = f"{self.label}: {self.done / size:.0f}{of}{unit}"
        if made and self.total is not None:
            text += f", {duration(took / made * max(self.total - self.done, 0))} left"
        else:
            text += f" after {duration(took)}"
        return f"{text}, {self.more}" if self.more else text


def has_bars(stream) -> bool:
    """Whether a stream is a terminal; one that has no size, as scripts make them, hides bars."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return True


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


class Voice:
    """Speaks for the steps of this process; what else is said makes it wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked process, whose parent speaks for its own steps."""
        self.steps: list[Step] = []
        self.said = self.clock()
        self.changed, self.thread = threading.Condition(), None

    def begin(self, step: Step) -> None:
        """Speak for a step from now on."""
        if has_bars(step.stream):
            step.show()
        with self.changed:
            step.began = self.clock()
            self.steps.append(step)
            if not (self.thread and self.thread.is_alive()):
                self.thread = threading.Thread(target=self._run, daemon=True)
                self.thread.start()
            self.changed.notify()

    def end(self, step: Step) -> None:
        with self.changed:
            if step in self.steps:
                self.steps.remove(step)
            if step.bar is not None:
                step.bar.close()

    def write(self, text: str, stream) -> None:
        """Print a line, above all bars; the silence begins anew.

        A reader that has gone, as `| tee` at Ctrl-C, ends nothing: what is said to it is lost.
        """
        self.said = self.clock()
        with contextlib.suppress(BrokenPipeError):
            if any(step.bar is not None for step in self.steps):
                from tqdm import tqdm

                tqdm.write(text, file=stream)
                stream.flush()
            else:
                print(f"{text}\n", end="", file=stream, flush=True)  # whole, beside other ranks'

    def tell(self) -> None:
        """Say how far all steps are, where that is due."""
        with self.changed:
            now = self.clock()
            if not any(now >= self._due(step) for step in self.steps):
                return
            self.said, plain = now, [step for step in self.steps if step.bar is None]
            for step in self.steps:
                step.told = True
                if step.bar is not None:
                    step.bar.refresh()
            if plain:
                text = "; ".join(step.text(now) for step in plain)
                print(f"{text}\n", end="", file=plain[-1].stream, flush=True)

    def _due(self, step: Step) -> float:
        silence = EVERY_S if step.told else FIRST_S
        return max(step.began, self.said) + (BAR_S if step.bar is not None else silence)

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait(POLL_S if self.steps else None)
            with contextlib.suppress(OSError, ValueError):  # nobody listens there any more
                self.tell()


VOICE = Voice()
"""Of this process: its terminal is one, too."""
os.register_at_fork(after_in_child=VOICE.forget)

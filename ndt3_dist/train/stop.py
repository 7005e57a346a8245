"""Being asked to stop: a signal to any rank, or the end of the launcher that started it.

Ranks tell each other once a step, save the same step and end with exit code 0. The `deepspeed`
launcher does not pass signals on and leaves its ranks behind when it dies, so each looks for it.
"""

import os
import signal
import sys
import threading

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LOOK_S = 1.0
"""Time between two looks for the launcher."""


class StopWatch:
    """Whether this run is to stop.

    Attributes:
        asked: Why this rank was asked to; empty where it was not.
        agreed: What all ranks know of it; empty while none was asked.
    """

    def __init__(self, within_s: float):
        """
        Args:
            within_s: From being asked to the end of the process, saved or not.
        """
        self.asked, self.agreed, self.within_s = "", "", within_s
        self._timer: threading.Timer | None = None
        self._before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        self._over = threading.Event()
        threading.Thread(target=self._look, args=(launchers(),), daemon=True).start()

    def ask(self, why: str) -> None:
        """Stop at the end of the step; the first reason counts."""
        if not self.asked:
            self.asked = why
            self._timer = threading.Timer(self.within_s, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """The run has ended; signals do what they did before."""
        self._over.set()
        if self._timer:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame) -> None:
        self.ask(signal.Signals(number).name)

    def _look(self, above: list[psutil.Process]) -> None:
        while not self._over.wait(LOOK_S):
            if any(not is_alive(p) for p in above):
                self.ask("the launcher is gone")
                return

    def _give_up(self) -> None:
        print(
            f"error: asked to stop ({self.asked}) and not done within {self.within_s:g} s "
            "(checkpoint.stop_within_s); ends without a checkpoint of this moment",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def launchers() -> list[psutil.Process]:
    """The processes above this one that belong to the `deepspeed` launcher."""
    found = []
    for process in psutil.Process().parents():
        try:
            if any("deepspeed" in part for part in process.cmdline()[:4]):
                found.append(process)
        except psutil.Error:
            break  # another user's
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""Being asked to stop: a signal to any rank, Ctrl-C, or the end of the launcher that started it.

Ranks tell each other once a step, save the same step and end with exit code 0. The `deepspeed`
launcher does not pass signals on and leaves its ranks behind when it dies, so each looks for it.
"""

import os
import select
import signal
import socket
import sys
import threading
import time

from ndt3_dist import log
from ndt3_dist.engines.command import is_alive, launchers

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LOOK_S = 1.0
"""Time between two looks for the launcher."""


class StopSignal:
    """Whether this run is to stop; a thread watches, since a rank may wait in a collective.

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
        self._over = False
        self._woken, waker = socket.socketpair()
        waker.setblocking(False)
        self._waker = waker  # the C handler writes a signal's number here, whatever Python does
        self._before = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
        self._fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(launchers(),), daemon=True)
        self._thread.start()

    def ask(self, why: str) -> None:
        """Stop at the end of the step; the first reason counts."""
        self.asked = self.asked or why

    def close(self) -> None:
        """The run has ended; signals do what they did before.

        But for a SIGUSR1 that comes late, as one that is sent to rank after rank does.
        """
        self._over = True
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._before.items():
            late = number == signal.SIGUSR1 and self.agreed
            signal.signal(number, signal.SIG_IGN if late else handler)
        self._waker.send(b"\0")
        self._thread.join()
        self._waker.close()
        self._woken.close()

    def _watch(self, above: list) -> None:
        deadline, signals = 0.0, select.poll()  # unlike select(), at home with a thousand files
        signals.register(self._woken, select.POLLIN)
        while not self._over:
            if signals.poll(1000 * LOOK_S):
                for number in self._woken.recv(64):
                    if number == signal.SIGINT and self.asked:
                        self._give_up("and again")
                    if number in SIGNALS and not self.asked:
                        self.ask(signal.Signals(number).name)
                        log.note(
                            f"{self.asked}: this step is finished and saved, within "
                            f"{self.within_s:g} s; kill -INT {os.getpid()} ends at once"
                        )
            if any(not is_alive(p) for p in above):
                self.ask("the launcher is gone")
            if self.asked:
                deadline = deadline or time.monotonic() + self.within_s
                if time.monotonic() > deadline and not self._over:
                    within = f"{self.within_s:g} s (checkpoint.stop_within_s)"
                    self._give_up(f"and not done within {within}")

    def _give_up(self, why: str) -> None:
        print(
            f"error: asked to stop ({self.asked}) {why}; ends without a checkpoint of this moment",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

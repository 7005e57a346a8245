"""One writer at a time of a folder, on a disk or in a store, without trust in anybody's clock.

A preparation or a training writes its mark into the folder and renews it; whoever finds a mark
watches whether it is renewed. A mark that is not belongs to one that was killed, and is taken over.
"""

import contextlib
import os
import secrets
import socket
import threading
import time

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, ManifestMismatch, Ndt3DistError

FILE = "job.json"
"""The mark of a job on its output; a training's is another (`train.settings`)."""
SETTLE_S = 0.3
BEAT_S = 5.0
"""Time between two renewals; a mark is watched for two and a half of them."""


def read_mark(path: str) -> dict:
    """A mark; {} where there is none that can be read."""
    try:
        found = storage.read_json(path)
    except (FileNotFoundError, BadInput):
        return {}
    return found if isinstance(found, dict) else {}


def check_job(out: str, job: str) -> None:
    """Raises ManifestMismatch where another job than `job` is at work on an output; "" = any may.

    A host that was cut off may go on with a task when its job is over and the next one has begun.
    """
    if job and read_mark(storage.join(out, FILE)).get("id") != job:
        raise ManifestMismatch(f"{out}: the job of this task is over; nothing is written")


class Lease:
    """Held as a context: raises on entering where another process is at work on the folder.

    Args:
        out: The folder.
        file: Name of the mark in it.
        remedy: What to do where it is held, for the message.
        refusal: The error that says so.
        wait_s: Seconds to wait for whoever holds it.
    """

    def __init__(
        self,
        out: str,
        file: str = FILE,
        remedy: str = "wait for it, or choose another out=",
        refusal: type[Ndt3DistError] = ManifestMismatch,
        wait_s: float = 0.0,
    ):
        self.out, self.path = out, storage.join(out, file)
        self.remedy, self.refusal, self.wait_s = remedy, refusal, wait_s
        self.mine = {"id": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid()}
        self.mine["space"] = os.readlink("/proc/self/ns/pid")  # containers count on their own
        self._over = threading.Event()
        self._missed, self._renewed = False, time.monotonic()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self):
        until = None
        while (found := self._mark()) and not self._is_gone(found):
            if until is None:
                log.say(f"{self.path}: looking whether that process still runs")
                until = time.monotonic() + self.wait_s
            with log.waiting(f"watching {self.path}"):
                if not self._is_renewed(found):
                    break
            if time.monotonic() >= until:
                raise self.refusal(
                    f"{self.path}: process {found.get('pid')} on {found.get('host')} is at work "
                    f"there; {self.remedy}"
                )
        self._write(0)
        # Two that came at once: the later mark stays, and its job alone.
        with log.waiting(f"looking whether {self.path} stays"):
            time.sleep(BEAT_S / 2 if storage.is_remote(self.path) else SETTLE_S)
        self.check()
        self._thread.start()
        return self

    def check(self) -> None:
        """Raises where another process has taken the folder over."""
        found, self._missed = self._mark(), True
        if not found:
            raise self.refusal(f"{self.path}: the mark of this process is gone; start it again")
        if found.get("id") != self.mine["id"]:
            raise self.refusal(
                f"{self.path}: another process has begun there "
                f"({found.get('pid')} on {found.get('host')}); this one ends"
            )
        self._missed = False

    def still_held(self) -> None:
        """The same, where the mark was seen to be another's, or was not renewed of late."""
        if self._missed or time.monotonic() - self._renewed > 2 * BEAT_S:
            self.check()

    def __exit__(self, *_) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError, Ndt3DistError):  # else it is taken over as it stands
            if self._mark().get("id") == self.mine["id"]:
                storage.remove(self.path)

    def _is_gone(self, found: dict) -> bool:
        """Whether the process of a mark was one of this host, and is no more."""
        if any(found.get(key) != self.mine[key] for key in ("host", "space")):
            return False
        try:
            os.kill(int(found["pid"]), 0)
        except (ProcessLookupError, ValueError, KeyError):
            return True
        except PermissionError:  # somebody else's, but there
            return False
        return False

    def _is_renewed(self, found: dict) -> bool:
        """Whether a mark changes while it is watched; one that is taken away does not."""
        deadline = time.monotonic() + 2.5 * BEAT_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 5)
            if self._mark() != found:
                return bool(self._mark())
        return False

    def _mark(self) -> dict:
        return read_mark(self.path)

    def _write(self, beat: int) -> None:
        storage.write_json(self.path, {**self.mine, "beat": beat})
        self._renewed = time.monotonic()

    def _renew(self) -> None:
        beat = 0
        while not self._over.wait(BEAT_S):
            beat += 1
            try:
                self._missed = self._mark().get("id") != self.mine["id"]
                if not self._missed:
                    self._write(beat)
            except (OSError, Ndt3DistError) as e:
                self._missed = True
                log.warn(f"{self.path}: cannot be renewed ({e})")

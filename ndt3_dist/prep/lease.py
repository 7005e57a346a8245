"""One job at a time on an output, on a disk or in a store, without trust in anybody's clock.

A job writes its mark beside the corpus and renews it; whoever finds a mark watches whether it is
renewed. A mark that is not belongs to a job that was killed, and is taken over.
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
SETTLE_S = 0.3
BEAT_S = 5.0
"""Time between two renewals; a mark is watched for two and a half of them."""


def read_mark(out: str) -> dict:
    """The mark of the job at work on an output; {} where there is none that can be read."""
    try:
        found = storage.read_json(storage.join(out, FILE))
    except (FileNotFoundError, BadInput):
        return {}
    return found if isinstance(found, dict) else {}


def check_job(out: str, job: str) -> None:
    """Raises ManifestMismatch where another job than `job` is at work on an output; "" = any may.

    A host that was cut off may go on with a task when its job is over and the next one has begun.
    """
    if job and read_mark(out).get("id") != job:
        raise ManifestMismatch(f"{out}: the job of this task is over; nothing is written")


class Lease:
    """Held as a context: `ManifestMismatch` on entering where another job is at work."""

    def __init__(self, out: str):
        self.out, self.path = out, storage.join(out, FILE)
        self.mine = {"id": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid()}
        self.mine["space"] = os.readlink("/proc/self/ns/pid")  # containers count on their own
        self._over = threading.Event()
        self._missed = False
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self):
        if (found := read_mark(self.out)) and self._is_alive(found):
            raise ManifestMismatch(
                f"{self.path}: process {found.get('pid')} on {found.get('host')} is at work on "
                "this output; wait for it, or choose another out="
            )
        self._write(0)
        # Two that came at once: the later mark stays, and its job alone.
        time.sleep(BEAT_S / 2 if storage.is_remote(self.path) else SETTLE_S)
        self.check()
        self._thread.start()
        return self

    def check(self) -> None:
        """Raises ManifestMismatch where another job has taken the output over."""
        found = read_mark(self.out)
        if not found:
            raise ManifestMismatch(f"{self.path}: the mark of this job is gone; start it again")
        if found.get("id") != self.mine["id"]:
            raise ManifestMismatch(
                f"{self.path}: another job has begun on this output "
                f"(process {found.get('pid')} on {found.get('host')}); this one ends"
            )

    def still_held(self) -> None:
        """The same, where the mark was last seen to be another's, or could not be renewed."""
        if self._missed:
            self.check()

    def __exit__(self, *_) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError, Ndt3DistError):  # else it is taken over as it stands
            if read_mark(self.out).get("id") == self.mine["id"]:
                storage.remove(self.path)

    def _is_alive(self, found: dict) -> bool:
        if all(found.get(key) == self.mine[key] for key in ("host", "space")):
            try:
                os.kill(int(found["pid"]), 0)
            except (ProcessLookupError, ValueError, KeyError):
                return False
            except PermissionError:
                pass  # somebody else's, but there
        log.say(f"{self.path}: looking whether that job still runs")
        deadline = time.monotonic() + 2.5 * BEAT_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 5)
            if read_mark(self.out) != found:
                return bool(read_mark(self.out))
        return False

    def _write(self, beat: int) -> None:
        storage.write_json(self.path, {**self.mine, "beat": beat})

    def _renew(self) -> None:
        beat = 0
        while not self._over.wait(BEAT_S):
            beat += 1
            try:
                self._missed = read_mark(self.out).get("id") != self.mine["id"]
                if not self._missed:
                    self._write(beat)
            except (OSError, Ndt3DistError) as e:
                self._missed = True
                log.warn(f"{self.path}: cannot be renewed ({e})")

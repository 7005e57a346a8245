"""Who keeps the others waiting: every rank says where it is, and the first names whom it waits for.

A thread of each rank writes a pulse and what it does to a store of the job: a rank that is slow
is told from one that is stopped, swapped out, or on a host that is gone.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

BEAT_S = 1.0
WAITS = "waits for the others"


@dataclass
class Heartbeat:
    """What another rank last wrote, and since when it is so (this rank's clock)."""

    pulse: str = ""
    doing: str = ""
    pulse_since: float = 0.0
    doing_since: float = 0.0


class RankWatch:
    """Pulse of this rank; on the first, eyes for all others, on the second for the first.

    Attributes:
        doing: What this rank does now; the loop sets it.
    """

    def __init__(self, rank: int, world_size: int, slow_s: float, store: Any):
        """
        Args:
            slow_s: Time at one thing after which those who are waited for are named.
            store: With `set` and `multi_get`, of the whole job.
        """
        self.rank, self.slow_s, self.store = rank, slow_s, store
        self.doing = "starts"
        # The store lives in the first rank: if that does not answer, the second says so.
        others = [r for r in range(world_size) if r != rank]
        self.watched = {0: others, 1: [0]}.get(rank, [])
        self.beats = {r: Heartbeat() for r in self.watched}
        self.said = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(2 * BEAT_S)

    def _run(self) -> None:
        beat, since, doing = 0, time.monotonic(), self.doing
        while not self._over.wait(BEAT_S):
            beat, now = beat + 1, time.monotonic()
            if self.doing != doing:
                if self.said:
                    say(f"on again after {now - since:.0f} s: {self.said}")
                doing, since, self.said = self.doing, now, ""
            try:
                self.store.set(str(self.rank), f"{beat}|{doing}")
                if self.watched:
                    self._look(now)
            except Exception:  # the store's server is the first rank; it is gone or stands still
                if self.rank == 1 and not self._over.is_set():
                    self._say_once("rank 0 does not answer")
                continue
            if self.watched and now - since > self.slow_s:
                named = waited_for(self.beats, now, self.slow_s / 2)
                if named:
                    self._say_once(f"{named}, for {now - since:.0f} s in: {doing}")

    def _look(self, now: float) -> None:
        for rank, value in zip(
            self.watched, self.store.multi_get([str(r) for r in self.watched]), strict=True
        ):
            pulse, _, doing = value.decode().partition("|")
            seen = self.beats[rank]
            if pulse != seen.pulse:
                seen.pulse, seen.pulse_since = pulse, now
            if doing != seen.doing:
                seen.doing, seen.doing_since = doing, now

    def _say_once(self, what: str) -> None:
        if not self.said:
            self.said = what
            say(f"warning: {what}; the others wait")


def waited_for(seen: dict[int, Heartbeat], now: float, slow_s: float) -> str:
    """Names ranks that have no pulse, or else those that do something while the rest waits."""
    silent = [r for r, s in seen.items() if now - s.pulse_since > slow_s]
    if silent:
        return f"{ranks(silent)} does not answer (stopped, swapped out, or its host is gone)"
    busy = {r: s for r, s in seen.items() if WAITS not in s.doing}
    slow = [r for r, s in busy.items() if now - s.doing_since > slow_s]
    if not slow or len(slow) == len(seen):
        return ""
    return f"{ranks(slow)} is slow ({busy[slow[0]].doing})"


def ranks(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"rank {', '.join(map(str, numbers[:8]))}{more}"


def say(message: str) -> None:
    """Also from the second rank, when the first cannot speak."""
    with contextlib.suppress(ValueError):
        print(message, file=sys.stderr, flush=True)


def open_store(rank: int, world_size: int, broadcast: Callable[[Callable[[], Any]], Any]):
    """A store of the job whose server is the first rank; all ranks call it."""

    address, timeout = os.environ["MASTER_ADDR"], timedelta(seconds=10)
    store = None
    if rank == 0:
        store = TCPStore(address, 0, None, True, timeout, wait_for_workers=False)
    port = broadcast(lambda: store and store.port)
    store = store or TCPStore(address, port, None, False, timeout, wait_for_workers=False)
    store.set(str(rank), "0|starts")
    dist.barrier()
    return store

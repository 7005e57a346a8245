"""Who keeps the others waiting: every rank says where it is, and the first names whom it waits for.

A thread of each rank writes a pulse and what it does to a store of the job: a rank that is slow
is told from one that is stopped, swapped out, or on a host that is gone. A job in which nothing
goes on any more is ended, by all ranks, each of which first writes down where its threads are.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ndt3_dist.engines.command import end_launcher
from ndt3_dist.engines.phases import COMMUNICATION, OTHER, Phases
from ndt3_dist.log import without_secrets
from ndt3_dist.train.faults import WRITE_S, keep_stacks

BEAT_S = 1.0
WAITS = "waits for the others"
VERDICT, MET, SAID = "verdict", "met", "said"
"""Keys of the store for the end of a job that hangs: `RANK|why`, how many ranks have written where
they are, then know that all are to end; and whether that rank is about to say so."""
SILENT = "does not answer (stopped, swapped out, or its host is gone)"


@dataclass
class Heartbeat:
    """What a rank last wrote, and since when it is so (the reader's clock)."""

    pulse: str = ""
    doing: str = ""
    pulse_since: float = 0.0
    doing_since: float = 0.0
    moves: str = ""
    moves_since: float = 0.0

    def take(self, value: str, now: float) -> None:
        """`pulse|moves|doing`, read at a time; phases of a step are one thing, waiting another."""
        pulse, moves, doing = value.split("|", 2)
        if pulse != self.pulse:
            self.pulse_since = now
        if moves != self.moves:
            self.moves_since = now
        if doing.split(",")[0] != self.doing.split(",")[0] or (WAITS in doing) != (
            WAITS in self.doing
        ):
            self.doing_since = now
        self.pulse, self.moves, self.doing = pulse, moves, doing

    def renew(self, now: float) -> None:
        self.pulse_since = self.moves_since = self.doing_since = now


class RankWatch:
    """Pulse of this rank; on the first, eyes for all others, on the second for the first.

    Attributes:
        doing: The step that this rank is at; the loop sets it.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        phases: Phases,
        store: Any,
        slow_s: float,
        hang_s: float = 0,
        folder: str = "",
    ):
        """
        Args:
            hosts: Of all ranks, in their order.
            phases: The clock of this one.
            store: With `set`, `get`, `add`, `compare_set` and `multi_get`, of the whole job.
            slow_s: Time at one thing after which those who are waited for are named.
            hang_s: Time without progress after which the job is ended; 0 = never.
            folder: Of the run, for what is written then.
        """
        self.rank, self.hosts, self.phases, self.store = rank, hosts, phases, store
        self.slow_s, self.hang_s, self.folder = slow_s, hang_s, folder
        self.doing = "starts"
        # The store lives in the first rank: if that does not answer, the second says so.
        others = [r for r in range(len(hosts)) if r != rank]
        self.watched = {0: others, 1: [0]}.get(rank, [])
        now = time.monotonic()
        self.own = Heartbeat("", self.doing, now, now, "", now)
        self.value = f"0|0|{self.doing}"
        self.heard: tuple[float, str, list[str]] = now, "", []  # when, verdict, of whom is watched
        self.beats = {r: Heartbeat("", "", now, now, "", now) for r in self.watched}
        self.said, self.ending = "", False
        self._over = threading.Event()
        self._talking = threading.Thread(target=self._talk, name="talk", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        for thread in (self._talking, self._watching):
            thread.start()

    def close(self) -> None:
        """No more is watched; where the job is being ended, this does not return."""
        self._over.set()
        self._watching.join(None if self.ending else 2 * BEAT_S)
        self._talking.join(2 * BEAT_S)

    def _talk(self) -> None:
        """Tell and ask the store. It may take for ever where its server stands still."""
        others = [str(r) for r in self.watched]
        while not self._over.wait(BEAT_S):
            try:
                self.store.set(str(self.rank), self.value)
                verdict = self.store.get(VERDICT).decode() if self.hang_s else ""
                values = self.store.multi_get(others) if others else []
            except dist.DistNetworkError:
                return  # the server has gone, and will not come back
            except Exception:
                continue
            self.heard = time.monotonic(), verdict, [value.decode() for value in values]

    def _watch(self) -> None:
        beat, before = 0, time.monotonic()
        while not self._over.wait(BEAT_S):
            beat, now = beat + 1, time.monotonic()
            if now - before > 5 * BEAT_S + 5:  # this process was stopped itself, perhaps all were
                for seen in (self.own, *self.beats.values()):
                    seen.renew(now)
                self.heard = now, self.heard[1], self.heard[2]
            before = now
            self._note(f"{beat}|{self.phases.moves}|{self._place()}", now)
            heard, verdict, values = self.heard
            for rank, value in zip(self.watched, values, strict=False):
                self.beats[rank].take(value, now)
            hangs = self.hang_s and now - self.own.moves_since > self.hang_s
            if verdict:
                self._end(verdict)
            elif now - heard > 10 * BEAT_S:  # the store's server is the first rank
                if self.rank == 1:
                    self._say_once("rank 0 does not answer")
                if hangs:
                    self._end_without_store()
            elif hangs:
                self._judge(now)
            elif self.watched and now - self.own.doing_since > self.slow_s:
                self._name(now)

    def _place(self) -> str:
        phase = self.phases.now
        if phase == OTHER:
            return self.doing
        return f"{self.doing}, {WAITS if phase == COMMUNICATION else phase}"

    def _note(self, value: str, now: float) -> None:
        """What this rank does now."""
        since = self.own.doing_since
        self.own.take(value, now)
        self.value = value
        if self.own.doing_since != since:
            if self.said:
                say(f"on again after {now - since:.0f} s: {self.said}")
            self.said = ""

    def _name(self, now: float) -> None:
        """Say whom this rank has waited for so long."""
        named = waited_for(self.beats, now, self.slow_s / 2)
        if named and (WAITS in self.own.doing or SILENT in named):
            at = f"for {now - self.own.doing_since:.0f} s in: {self.own.doing}"
            self._say_once(f"{named}, {at}")

    def _silent(self, now: float) -> list[int]:
        return [r for r, s in self.beats.items() if now - s.pulse_since > self.hang_s / 2]

    def _judge(self, now: float) -> None:
        """The verdict on a job in which nothing goes on; the second rank's, if the first cannot."""
        if self.rank == 0 or (self.rank == 1 and self._silent(now)):
            seen = {self.rank: self.own, **self.beats}
            why = hang_line(seen, self.hosts, now, self.hang_s)
            self._ask(lambda: self.store.compare_set(VERDICT, "", f"{self.rank}|{why}"))

    def _say_once(self, what: str) -> None:
        if not self.said:
            self.said = what
            say(f"warning: {what}; the others wait")

    def _end(self, verdict: str) -> None:
        """Write down where this rank is, and end it; who gave the verdict speaks, and last."""
        self.ending = True  # others that end break collectives of this one; it has nothing to say
        speaker, _, why = verdict.partition("|")
        keep_stacks(self.folder, self.rank, why)
        able = len(self.hosts) - len(self._silent(time.monotonic()))
        met, deadline = self._ask(lambda: self.store.add(MET, 1)), time.monotonic() + 3 * WRITE_S
        if speaker != str(self.rank):
            # A store that is gone is not asked again: torch would print that with a long trace.
            while met and time.monotonic() < deadline:
                if self._ask(lambda: self.store.get(SAID)) != b"":
                    met = self._ask(lambda: self.store.add(MET, 1))
                    break
                time.sleep(0.1)
            time.sleep(2 * BEAT_S if met else 2 * WRITE_S)
            os._exit(1)
        self._wait_for(able)
        self._ask(lambda: self.store.set(SAID, "1"))
        self._wait_for(2 * able - 1)
        self._speak(why)

    def _end_without_store(self) -> None:
        """Each rank comes to it by itself; the second one speaks, while the others still stand."""
        self.ending = True
        why = f"rank 0 (host {self.hosts[0]}) {SILENT}; nothing has gone on for {self.hang_s:g} s"
        keep_stacks(self.folder, self.rank, why)
        if self.rank != 1:
            time.sleep(2 * WRITE_S)
            os._exit(1)
        self._speak(why)

    def _speak(self, why: str) -> None:
        say(f"error: {why}; where the threads of all ranks are: {self.folder}/faults")
        end_launcher()
        os._exit(1)

    def _wait_for(self, met: int) -> None:
        deadline = time.monotonic() + WRITE_S
        while self._ask(lambda: self.store.add(MET, 0) < met) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """What the store says; None where it is gone."""
        with contextlib.suppress(Exception):
            return call()
        return None


def waited_for(seen: dict[int, Heartbeat], now: float, slow_s: float) -> str:
    """Names ranks that have no pulse, or else those that do something while the rest waits."""
    silent = [r for r, s in seen.items() if now - s.pulse_since > slow_s]
    if silent:
        return f"{ranks(silent)} {SILENT}"
    busy = {r: s for r, s in seen.items() if WAITS not in s.doing}
    slow = [r for r, s in busy.items() if now - s.doing_since > slow_s]
    if not slow or len(slow) == len(seen):
        return ""
    return f"{ranks(slow)} is slow ({busy[slow[0]].doing})"


def hang_line(seen: dict[int, Heartbeat], hosts: Sequence[str], now: float, hang_s: float) -> str:
    """Who keeps a job from going on, where, and what it was at."""
    who = {r: f"rank {r} (host {hosts[r]})" for r in seen}
    silent = [r for r, s in seen.items() if now - s.pulse_since > hang_s / 2]
    busy = [r for r, s in seen.items() if WAITS not in s.doing and now - s.moves_since > hang_s / 2]
    for few, what in ((silent, f"{SILENT}; it was last seen at"), (busy, "has not moved from")):
        if few:
            first = f"{who[few[0]]} {what}: {seen[few[0]].doing}"
            more = f" (also {ranks(few[1:])})" if few[1:] else ""
            return f"{first}{more}; nothing has gone on for {hang_s:g} s"
    at = {s.doing for s in seen.values()}
    return f"nothing has gone on for {hang_s:g} s, and no rank is behind: {' | '.join(sorted(at))}"


def ranks(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"rank {', '.join(map(str, numbers[:8]))}{more}"


def say(message: str) -> None:
    """Also from the second rank, when the first cannot speak."""
    with contextlib.suppress(ValueError):
        print(without_secrets(message), file=sys.stderr, flush=True)


def open_store(rank: int, world_size: int, broadcast: Callable[[Callable[[], Any]], Any]):
    """A store of the job whose server is the first rank; all ranks call it."""

    address, timeout = os.environ["MASTER_ADDR"], timedelta(seconds=10)
    store = None
    if rank == 0:
        store = TCPStore(address, 0, None, True, timeout, wait_for_workers=False)
        for key in (VERDICT, SAID):
            store.set(key, "")
    port = broadcast(lambda: store and store.port)
    store = store or TCPStore(address, port, None, False, timeout, wait_for_workers=False)
    store.set(str(rank), "0|0|starts")
    dist.barrier()
    return store

"""Keep a run going on the hosts that there are: again with fewer when one is lost, and with more.

Whatever the reason, ranks are first asked to save and end, and killed if they cannot: a rank whose
partner is gone waits in a collective for half an hour. How often a run may start from one step is
the run's own `checkpoint.max_starts`.
"""

import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ndt3_dist.cluster.launch.hostfile import Bounds, Host, choose, num_ranks
from ndt3_dist.errors import ClusterFailed

IN_A_ROW = 2
"""Looks at a host that must agree before it is taken for lost, or for back."""
TRIES = 3
"""Starts in a row that fail before they begin to train."""
MOST_BACKOFF_S = 300.0
LOOK_S = 0.5
LEAVE_S = 30.0
"""From the end of the ranks, which keep to their own time, to that of their launcher."""


class Job(Protocol):
    """What is done to hosts (`over_ssh.Run`)."""

    def answering(self, hosts: list[Host]) -> list[Host]: ...
    def start(self, hosts: list[Host], resume: str, note: str) -> subprocess.Popen: ...
    def signal(self, hosts: list[Host], name: str) -> int: ...
    def num_starts(self) -> int: ...


@dataclass(frozen=True)
class Times:
    """Seconds.

    Attributes:
        check_s: Between two looks at the hosts.
        backoff_s: Before a start after the first failure; doubled after each more.
        stop_within_s: That ranks have to save and end.
    """

    check_s: float
    backoff_s: float
    stop_within_s: float


class Supervisor:
    """One run; `stop` makes it end, by a signal handler or from another thread.

    Attributes:
        stop: Set when the run is to be saved and ended.
    """

    def __init__(
        self,
        job: Job,
        hosts: list[Host],
        bounds: Callable[[], Bounds],
        times: Times,
        end: Callable[[subprocess.Popen], None],
        say: Callable[[str], None],
    ):
        """
        Args:
            bounds: Of now: what a start chooses by the GPUs' memory holds for those that follow.
        """
        self.job, self.hosts, self.bounds, self.times = job, hosts, bounds, times
        self.end, self.say, self.stop = end, say, threading.Event()

    def go(self, resume: str) -> int:
        """Until the run is over or was asked to stop; the exit code of its last start.

        Raises:
            ClusterFailed: Starts fail before they begin.
        """
        why, in_vain, failures = "", 0, 0
        while hosts := self._wait_for_hosts():
            without = [host.name for host in self.hosts if host not in hosts]
            parts = [why, f"without {', '.join(without)}" if without else ""]
            note = ", ".join(part for part in parts if part)
            self.say(
                f"{len(hosts)} of {len(self.hosts)} hosts, {num_ranks(hosts)} ranks"
                f"{f': {note}' if note else ''}"
            )
            if why:
                self.job.signal(hosts, "KILL")  # what a host that was cut off may still run
            before = self.job.num_starts()
            process = self.job.start(hosts, resume, note)
            why = self._watch(process, hosts)
            if why:
                self._ask(process, hosts, why)
            code, resume = process.returncode, "auto"
            if self.stop.is_set() or (code == 0 and not why):
                return 1 if code else 0
            if why:
                failures = in_vain = 0
                continue
            in_vain = 0 if self.job.num_starts() > before else in_vain + 1
            if in_vain == TRIES:
                raise ClusterFailed(
                    f"{TRIES} starts in a row have failed before they began to train; the last "
                    f"ended with {code}, and says why above"
                )
            pause = min(self.times.backoff_s * 2**failures, MOST_BACKOFF_S)
            failures, why = failures + 1, f"failed with code {code}"
            self.say(f"the run {why}; it starts again in {pause:g} s")
            self.stop.wait(pause)
        return 0

    def _wait_for_hosts(self) -> list[Host]:
        """Hosts to start on; none where this was asked to stop before enough of them answered."""
        said = ""
        while not self.stop.is_set():
            answering = self.job.answering(self.hosts)
            if found := choose(answering, bounds := self.bounds()):
                return found
            silent = ", ".join(host.name for host in self.hosts if host not in answering)
            if silent != said:
                self.say(f"waiting for hosts: expected {bounds}; {silent} do not answer")
                said = silent
            self.stop.wait(self.times.check_s)
        return []

    def _watch(self, process: subprocess.Popen, hosts: list[Host]) -> str:
        """Until the run ends, or there is a reason to end it; the reason."""
        missed, better = Counter(), 0
        while process.poll() is None:
            if self._wait(process, self.times.check_s):
                continue
            if self.stop.is_set():
                return "asked to stop"
            answering = self.job.answering(self.hosts)
            if not {*answering} & {*hosts}:
                continue  # it is this host that reaches nobody; the run may be well
            missed = Counter({h: missed[h] + 1 for h in hosts if h not in answering})
            if lost := [host.name for host, times in missed.items() if times >= IN_A_ROW]:
                return f"lost {', '.join(lost)}"
            more = choose(answering, self.bounds())
            better = better + 1 if num_ranks(more) > num_ranks(hosts) else 0
            if better >= IN_A_ROW:
                return f"with {', '.join(h.name for h in more if h not in hosts)} again"
        return ""

    def _wait(self, process: subprocess.Popen, seconds: float) -> bool:
        """Wait so long, or until this was asked to stop; whether the run ended before."""
        for _ in range(max(1, round(seconds / LOOK_S))):
            if process.poll() is not None:
                return True
            if self.stop.wait(LOOK_S):
                return False
        return process.poll() is not None

    def _ask(self, process: subprocess.Popen, hosts: list[Host], why: str) -> None:
        """Let the run save and end; end it where it does not."""
        self.say(f"{why}: the run is asked to save and end")
        there = self.job.answering(hosts)
        self.job.signal(there, "USR1")  # all: ranks tell each other only if none is lost
        for _ in range(round((self.times.stop_within_s + LEAVE_S) / LOOK_S)):
            try:
                process.wait(LOOK_S)
                break
            except subprocess.TimeoutExpired:
                # ssh to a host that is gone ends late.
                if len(there) < len(hosts) and not self.job.signal(there, "NONE"):
                    break
        self.job.signal(there, "KILL")
        self.end(process)

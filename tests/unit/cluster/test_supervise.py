"""What a supervisor does as hosts leave and return, on hosts that are only played."""

import threading
import time

import pytest

from ndt3_dist.cluster.launch import supervise
from ndt3_dist.cluster.launch.hostfile import Bounds, Host
from ndt3_dist.cluster.launch.supervise import Supervisor, Times
from ndt3_dist.errors import ClusterFailed

HOSTS = [Host(name, 1) for name in "abcd"]


class Process:
    """A launcher; it ends by itself, or when it is told to."""

    def __init__(self, code=None):
        self.returncode = code

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            raise supervise.subprocess.TimeoutExpired("deepspeed", timeout or 0)
        return self.returncode


class Job:
    """Hosts that answer, look by look (the last look lasts), and starts that end with a code."""

    def __init__(self, looks, codes=(), begins=True):
        self.looks, self.codes, self.begins = list(looks), list(codes), begins
        self.started, self.signals, self.begun, self.looked = [], [], 0, 0

    def answering(self, hosts):
        self.looked += 1
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [host for host in hosts if host.name in look]

    def start(self, hosts, resume, note):
        self.begun += self.begins
        self.started.append(("".join(host.name for host in hosts), resume, note))
        self.process = Process(self.codes.pop(0) if self.codes else None)
        return self.process

    def signal(self, hosts, name):
        self.signals.append((name, "".join(host.name for host in hosts)))
        if name == "USR1" and len(self.answering(HOSTS)) >= 1:
            self.process.returncode = 0  # it has saved
        return 0

    def num_starts(self):
        return self.begun


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervise, "LOOK_S", 0.001)


FOUR = Bounds(4)


def go(job, bounds=FOUR, stop_when=None, said=None):
    """A supervisor to its end; asked to stop when something is so."""

    def end(process):
        process.returncode = -9 if process.returncode is None else process.returncode

    say = [].append if said is None else said.append
    found = Supervisor(job, HOSTS, lambda: bounds, Times(0.002, 0.001, 0.01), end, say)

    def wait():
        deadline = time.time() + 20
        while not stop_when(job) and time.time() < deadline:
            time.sleep(0.001)
        found.stop.set()

    if stop_when:
        threading.Thread(target=wait, daemon=True).start()
    return found.go("auto")


def test_a_run_that_ends_by_itself_is_over():
    job = Job(["abcd"], codes=[0])
    assert go(job) == 0
    assert job.started == [("abcd", "auto", "")]
    assert job.signals == []  # of a first start nothing is left, and another's run is not ended


def test_a_lost_host_is_done_without_and_taken_in_again():
    job = Job(["abcd", "abcd", "abc", "abc", "abc", "abc", "abc", "abcd"])
    assert go(job, stop_when=lambda job: len(job.started) == 3) == 0
    hosts, resumes, notes = zip(*job.started, strict=True)
    assert hosts == ("abcd", "ab", "abcd")
    assert set(resumes) == {"auto"}
    assert notes == ("", "lost d, without c, d", "with c, d again")
    asked, killed = ("USR1", "KILL")
    assert job.signals == [
        *[(asked, "abc"), (killed, "abc"), (killed, "ab")],  # what is left where it starts again
        *[(asked, "ab"), (killed, "ab"), (killed, "abcd")],
        *[(asked, "abcd"), (killed, "abcd")],
    ]


@pytest.mark.parametrize("looks", [["abc"], ["", "", "", "", ""]], ids=["one miss", "all away"])
def test_a_host_that_does_not_answer_once_and_an_own_network_that_is_away_change_nothing(looks):
    job = Job(["abcd", "abcd", *looks, "abcd"])
    assert go(job, stop_when=lambda job: job.looked > 12) == 0
    assert len(job.started) == 1
    job = Job(["ab", "ab", "abcd", "ab"])  # nor does one that is back for a moment
    assert go(job, stop_when=lambda job: job.looked > 12) == 0
    assert len(job.started) == 1


def test_too_few_hosts_are_waited_for_and_said_once():
    said = []
    job = Job(["a", "a", "a", "ab"], codes=[0])
    assert go(job, Bounds(4, 2), said=said) == 0
    assert job.started == [("ab", "auto", "without c, d")]
    assert [line for line in said if "waiting" in line] == [
        "waiting for hosts: expected 2 ranks that share 4 micro-batches evenly; b, c, d do not "
        "answer"
    ]


def test_a_failure_is_tried_again_and_three_in_vain_end_it():
    job = Job(["abcd"], codes=[1, 1, 1, 1, 0])
    assert go(job) == 0  # each of them has trained; the run's own limit is another
    assert [note for *_, note in job.started] == ["", *["failed with code 1"] * 4]
    job = Job(["abcd"], codes=[1, 1, 1, 0], begins=False)
    with pytest.raises(ClusterFailed, match="3 starts in a row have failed before they began"):
        go(job)
    assert len(job.started) == 3


def test_a_run_that_cannot_save_is_killed():
    job = Job(["abcd"])
    job.signal = lambda hosts, name: job.signals.append((name, hosts)) or 1
    supervise.LEAVE_S, before = 0.01, supervise.LEAVE_S
    try:
        assert go(job, stop_when=lambda job: job.started) == 1
    finally:
        supervise.LEAVE_S = before
    assert [name for name, _ in job.signals] == ["USR1", "KILL"]

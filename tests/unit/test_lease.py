"""Two processes on one folder: the second says so; a mark of one that was killed is taken over."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from ndt3_dist import lease, storage
from ndt3_dist.errors import ManifestMismatch
from ndt3_dist.lease import Lease
from ndt3_dist.prep import job
from ndt3_dist.prep.output import claim
from ndt3_dist.prep.recipe import Recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.1)


def mark(tmp_path, **changes):
    found = {"id": "x", "host": socket.gethostname(), "pid": os.getpid(), "beat": 3}
    found["space"] = os.readlink("/proc/self/ns/pid")
    storage.write_json(tmp_path / "job.json", {**found, **changes})


def test_a_second_job_is_refused_while_the_first_renews_its_mark(tmp_path):
    with Lease(str(tmp_path)) as first:
        with pytest.raises(ManifestMismatch, match=f"process {os.getpid()} on .* is at work there"):
            Lease(str(tmp_path)).__enter__()
        first.check()
    assert list(tmp_path.iterdir()) == []
    with Lease(str(tmp_path)):
        pass


def test_whoever_waits_goes_on_when_the_first_has_ended(tmp_path):
    first = Lease(str(tmp_path))
    first.__enter__()
    threading.Timer(0.6, lambda: first.__exit__(None, None, None)).start()
    began = time.monotonic()
    with Lease(str(tmp_path), wait_s=20):
        assert time.monotonic() - began > 0.5


def test_one_that_could_not_renew_looks_before_it_says_that_it_still_holds(tmp_path):
    """As a process does that was stopped for a while: its thread has seen nothing yet."""
    with Lease(str(tmp_path)) as ours:
        ours._over.set()
        ours._thread.join()
        mark(tmp_path, id="other", host="elsewhere", pid=7)
        assert not ours._missed
        time.sleep(0.25)
        with pytest.raises(ManifestMismatch, match="has begun there"):
            ours.still_held()


def test_a_mark_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path, capsys):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mark(tmp_path, pid=gone.pid)
    with Lease(str(tmp_path)):
        pass
    assert capsys.readouterr().out == ""


def test_a_mark_of_another_host_is_watched_first(tmp_path, capsys):
    mark(tmp_path, host="elsewhere")
    began = time.monotonic()
    with Lease(str(tmp_path)):
        assert time.monotonic() - began > 0.2
    assert "looking whether that process still runs" in capsys.readouterr().out


def test_of_two_that_come_at_once_one_works(tmp_path):
    """Each in a process of its own, at the same moment; who has it keeps it till the other ends."""
    program = (
        "import sys\n"
        "from ndt3_dist.lease import Lease\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "with Lease(sys.argv[1]):\n"
        "    sys.stdin.readline()\n"
    )
    command, pipe = [sys.executable, "-c", program, str(tmp_path)], subprocess.PIPE
    both = [
        subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]

    def go_on(processes) -> None:
        for p in processes:
            assert p.stdin
            p.stdin.write(b"\n")

    assert [p.stdout and p.stdout.readline() for p in both] == [b"ready\n"] * 2
    go_on(both)
    until = time.monotonic() + 30
    while all(p.poll() is None for p in both) and time.monotonic() < until:
        time.sleep(0.02)
    at_work = [p for p in both if p.poll() is None]
    go_on(at_work)
    for p in both:
        p.communicate(timeout=30)
    assert (len(at_work), sorted(p.returncode for p in both)) == (1, [0, 1])


def test_a_job_whose_output_was_taken_over_ends(tmp_path):
    with Lease(str(tmp_path)) as ours:
        mark(tmp_path, id="other", host="elsewhere", pid=7)
        with pytest.raises(ManifestMismatch, match=r"has begun there \(7 on elsewhere"):
            ours.check()
        time.sleep(0.3)  # nor does it renew another's mark
        with pytest.raises(ManifestMismatch, match="has begun"):
            ours.still_held()
        assert storage.read_json(tmp_path / "job.json")["id"] == "other"
    assert storage.read_json(tmp_path / "job.json")["id"] == "other"


def test_a_late_task_of_a_job_that_is_over_writes_nothing(
    tmp_path, write_session, without_ray, monkeypatch
):
    monkeypatch.setattr(lease, "BEAT_S", 5.0)  # the task finds out by itself
    write_session(tmp_path / "nwb" / "a.nwb", seed=0)
    out, real = tmp_path / "c", job.plans_of

    def taken_over(*arguments):
        plans = real(*arguments)
        storage.write_json(out / "job.json", {"id": "other", "host": "elsewhere", "pid": 7})
        return plans

    monkeypatch.setattr(job, "plans_of", taken_over)
    recipe = Recipe(dataset="t", source=str(tmp_path / "nwb"), out=str(out))
    with pytest.raises(ManifestMismatch, match="the job of this task is over; nothing is written"):
        job.prepare(recipe)
    assert not (out / "shards").exists()
    assert storage.read_json(out / "job.json")["id"] == "other"


def test_what_a_killed_claim_has_left_is_in_nobodys_way(tmp_path):
    (tmp_path / ".recipe.json.0a1b.tmp").write_text("{")
    claim(str(tmp_path), {"dataset": "t"})
    assert storage.read_json(tmp_path / "recipe.json") == {"dataset": "t"}
    (tmp_path / "recipe.json").rename(tmp_path / "notes.tmp")
    with pytest.raises(ManifestMismatch, match="exists and is not a corpus"):
        claim(str(tmp_path), {"dataset": "t"})

"""Four ranks of which one after the other is slow: each is named, and where; then one hangs."""

import re
import socket
import time

import psutil
import pytest
from launching import launch, log_of, losses, ranks_of, wait_for_steps
from slowed import Slowed

HOST = socket.gethostname()
EVERY = 3
WINDOWS = [
    *("train.max_steps=100000", f"log.every_steps={EVERY}", f"checkpoint.every_steps={EVERY}"),
    *("checkpoint.background=false", "checkpoint.keep_last=1", "train.slow_rank_s=3"),
]


@pytest.fixture
def slowed(tmp_path, monkeypatch):
    return Slowed(tmp_path / "slow", monkeypatch)


def wait_for(said: str, folder, process, seconds=60.0) -> str:
    """The log, once it says something that matches."""
    deadline = time.monotonic() + seconds
    while not re.search(said, log := log_of(folder)):
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    return log


def named_within_two_windows(slowed, folder, process, fault: str, said: str) -> None:
    """Begin a fault; the line that names it comes after two windows that are wholly of it."""
    slowed.tell(fault)
    began = max(losses(folder))
    log = wait_for(said, folder, process)
    before = log[: re.search(said, log).start()]
    last = int(re.findall(r"^step (\d+)/", before, re.M)[-1])
    assert last - began <= 3 * EVERY + 1, log  # it begins within a window, which need not count


def end_of_hang(process, folder, stopped=()) -> str:
    """What a job says last that hangs, once all have ended; those that stand still are killed."""
    log = wait_for(r"\nerror: .*\n", folder, process)
    family = psutil.Process(process.pid).children(recursive=True)
    for rank in stopped:
        rank.kill()
    assert process.wait(timeout=60) != 0
    assert not psutil.wait_procs(family, timeout=60)[1]
    log = log_of(folder)
    return [line for line in log.splitlines() if line and not line.startswith("[")][-1]


def test_ranks_that_are_slow_are_named_with_the_phase_and_a_hang_ends_the_job(
    corpus, tmp_path, slowed
):
    process = launch(tmp_path, corpus, 4, [*WINDOWS, "train.hang_s=6"], wait=False)
    wait_for_steps(process, tmp_path, 2 * EVERY + 2)
    assert " slow" not in log_of(tmp_path)

    turns = [
        ("forward 3 0.5", rf"warning: rank 3 \(host {HOST}\) is slow at forward: 0\.\d+ s of each"),
        ("data 1 0.8", rf"warning: rank 1 \(host {HOST}\) is slow at data: "),
        ("checkpoint 2 1.5", rf"warning: rank 2 \(host {HOST}\) is slow at checkpoint: "),
        ("checkpoint all 1.8", r"warning: all ranks are slow at checkpoint: .* of the time"),
    ]
    for fault, said in turns:
        named_within_two_windows(slowed, tmp_path, process, fault, said)
    slowed.tell()
    log = wait_for("all ranks are no longer slow at checkpoint", tmp_path, process)
    assert len(re.findall("warning: .* slow at", log)) == len(turns), log
    for rank, phase in ((3, "forward"), (1, "data"), (2, "checkpoint")):
        assert f"rank {rank} (host {HOST}) is no longer slow at {phase}" in log

    ranks = ranks_of(process)
    ranks[2].suspend()
    last = end_of_hang(process, tmp_path, ranks[2:3])
    why = rf"rank 2 \(host {HOST}\) does not answer .*; it was last seen at: step \d+.* for 6 s"
    assert re.fullmatch(rf"error: {why}; where the threads of all ranks are: .*/r/faults", last)
    wrote = sorted(f.name[15:] for f in (tmp_path / "r" / "faults").iterdir())
    kinds = "collectives.json", "stacks.txt"
    assert wrote == [f"-rank{r:05d}-{kind}" for r in (0, 1, 3) for kind in kinds]
    texts = [f.read_text() for f in (tmp_path / "r" / "faults").glob("*stacks.txt")]
    assert all("thread MainThread:" in t and "thread watch:" in t for t in texts)

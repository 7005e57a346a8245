"""A pretraining that is stopped for a while and taken over writes nothing when it wakes."""

import os
import signal
import time

import pytest
from launching import launch, losses, ranks_of, wait_for_steps
from ranks import run_ranks

from ndt3_dist.checkpoint.steps import open_step, steps_of


@pytest.mark.timeout(300)
def test_a_run_that_was_taken_over_ends_before_its_next_write(corpus, tmp_path):
    extra = ["train.max_steps=40"]
    code, log = run_ranks(tmp_path / "alone", corpus, 2, extra)
    assert code == 0, log
    process = launch(tmp_path / "two", corpus, extra=extra, wait=False)
    wait_for_steps(process, tmp_path / "two", 6)
    asleep = [rank.pid for rank in ranks_of(process)]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    code, log = run_ranks(tmp_path / "two", corpus, 2, extra, "auto")
    assert code == 0, log
    assert "looking whether that process still runs" in log
    kept = steps_of(tmp_path / "two" / "r")
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    assert process.wait(timeout=120) != 0
    first = next((tmp_path / "two").glob("log[0-9].txt")).read_text()
    assert "lease.json: the mark of this process is gone; start it again" in first
    time.sleep(1)
    assert losses(tmp_path / "two") == losses(tmp_path / "alone")
    assert steps_of(tmp_path / "two" / "r") == kept == [*range(4, 41, 4)][-len(kept) :]
    assert [open_step(tmp_path / "two" / "r", step).meta["step"] for step in kept] == kept

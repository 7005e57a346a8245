"""Four ranks whose clocks jump: one breaks a step, one stands still and is named, one is killed."""

import math
import re
import signal
import time

import psutil
import pytest
from launching import break_rank_1, launch, log_of, losses, ranks_of, wait_for_steps

JUMPING = """
import random, time
clock = time.time
time.time = lambda: clock() + 86400 * random.randint(-3, 3)
"""


@pytest.mark.parametrize(
    "stands_s", [0, pytest.param(60, marks=[pytest.mark.drill], id="a minute")]
)
def test_of_four_ranks_one_breaks_a_step_one_stands_still_and_one_is_killed(
    corpus, tmp_path, monkeypatch, stands_s
):
    break_rank_1(tmp_path, monkeypatch, "position == 4", also=JUMPING)  # the second step
    extra = ["train.max_steps=100000", "train.slow_rank_s=4", "train.precision=fp32"]
    process = launch(tmp_path, corpus, 4, extra, wait=False)
    wait_for_steps(process, tmp_path, 3)
    said = r"step 2 is skipped, no weight moves: the loss is not finite in micro-batch 1 \(rank 1\)"
    assert len(re.findall(said, log_of(tmp_path))) == 1
    found = losses(tmp_path)
    assert math.isnan(found[2])
    assert math.isfinite(found[3])

    ranks = ranks_of(process)
    ranks[2].send_signal(signal.SIGSTOP)
    began = time.time()
    deadline = time.time() + 60
    named = "warning: rank 2 does not answer (stopped, swapped out, or its host is gone), for "
    while named not in log_of(tmp_path):
        assert time.time() < deadline, log_of(tmp_path)
        time.sleep(0.2)
    time.sleep(max(0, began + stands_s - time.time()))
    assert process.poll() is None
    stood = max(losses(tmp_path))
    ranks[2].send_signal(signal.SIGCONT)
    wait_for_steps(process, tmp_path, stood + 3)
    deadline = time.time() + 20
    while "on again after " not in log_of(tmp_path):
        assert time.time() < deadline
        time.sleep(0.2)
    assert log_of(tmp_path).count("does not answer") == 2  # once named, once when it was over

    family = psutil.Process(process.pid).children(recursive=True)
    ranks[3].kill()
    assert process.wait(timeout=60) != 0
    assert not psutil.wait_procs(family, timeout=40)[1]
    assert "error: rank 0: lost another rank" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)

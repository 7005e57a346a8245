"""A run that is asked to stop saves what it has and ends; nothing is left behind or lost."""

import os
import signal
import time

import psutil
import pytest
from launching import launch, losses

from ndt3_dist.checkpoint.format import steps_of

STEPS = 80
LONG = [f"train.max_steps={STEPS}", "checkpoint.every_steps=1000"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("whole")
    code, log = launch(folder, corpus, extra=LONG)
    assert code == 0, log
    return losses(folder)


def ranks_of(process) -> list[psutil.Process]:
    """The processes of the ranks, in their order."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        command = child.cmdline()
        if "launch/pretrain.py" in command and "deepspeed" not in " ".join(command[:4]):
            found[child.environ()["RANK"]] = child
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize(
    "how", ["SIGTERM to rank 1", "SIGUSR1 to rank 0", "SIGTERM to the command"]
)
def test_a_run_that_is_asked_to_stop_saves_and_ends(whole, corpus, tmp_path, how):
    process = launch(tmp_path, corpus, extra=LONG, wait=False)
    deadline = time.time() + 120
    while len(losses(tmp_path)) < 5:
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.01)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    name, _, whom = how.partition(" to ")
    target = process.pid if whom == "the command" else ranks_of(process)[int(whom[-1])].pid
    os.kill(target, getattr(signal, name))
    assert process.wait(timeout=60) == (-signal.SIGTERM if whom == "the command" else 0)
    _, alive = psutil.wait_procs(family[1:], timeout=30)
    assert not alive
    (log,) = [f.read_text() for f in tmp_path.glob("log*.txt")]
    (step,) = steps_of(tmp_path / "r")
    assert 5 <= step < STEPS
    why = "the launcher is gone" if whom == "the command" else name
    assert f"stopped after step {step} (rank " in log
    assert f": {why}" in log
    assert "error" not in log
    if whom == "rank 0":
        return  # to go on from it twice is enough
    code, log = launch(tmp_path, corpus, extra=LONG, resume="auto")
    assert code == 0, log
    assert f"resuming from step {step}" in log
    assert losses(tmp_path) == whole

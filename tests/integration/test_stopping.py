"""A run that is asked to stop saves what it has and ends; nothing is left behind or lost."""

import os
import signal

import psutil
import pytest
from launching import launch, log_of, losses, ranks_of, wait_for_steps

from ndt3_dist.checkpoint.steps import steps_of

STEPS = 80
LONG = [f"train.max_steps={STEPS}", "checkpoint.every_steps=1000"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("whole")
    code, log = launch(folder, corpus, extra=LONG)
    assert code == 0, log
    return losses(folder)


@pytest.mark.parametrize(
    "how", ["SIGTERM to rank 1", "SIGUSR1 to rank 0", "SIGTERM to the command"]
)
def test_a_run_that_is_asked_to_stop_saves_and_ends(whole, corpus, tmp_path, how):
    process = launch(tmp_path, corpus, extra=LONG, wait=False)
    wait_for_steps(process, tmp_path)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    name, _, whom = how.partition(" to ")
    target = process.pid if whom == "the command" else ranks_of(process)[int(whom[-1])].pid
    os.kill(target, getattr(signal, name))
    assert process.wait(timeout=60) == (-signal.SIGTERM if whom == "the command" else 0)
    _, alive = psutil.wait_procs(family[1:], timeout=30)
    assert not alive
    log = log_of(tmp_path)
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


def test_ctrl_c_saves_and_its_last_line_says_so(corpus, tmp_path):
    options = {"options": ["-q"], "start_new_session": True}
    process = launch(tmp_path, corpus, extra=LONG, wait=False, **options)
    wait_for_steps(process, tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.wait(timeout=60)
    assert not psutil.wait_procs(family, timeout=60)[1]
    (step,) = steps_of(tmp_path / "r")
    last = log_of(tmp_path).splitlines()[-1]
    assert last.startswith(f"stopped after step {step} (rank 0: SIGINT, rank 1: SIGINT), saved")
    assert last.endswith("--resume auto goes on")
    assert ": this step is finished and saved" in log_of(tmp_path)


def test_an_error_is_the_last_line_and_the_launcher_ends_as_failed(corpus, tmp_path):
    code, log = launch(tmp_path, corpus, extra=["data.split=none"], options=["-q"])
    assert code == 1
    assert log.splitlines()[-1].startswith("error: ")


def test_a_rank_that_is_killed_takes_the_others_with_it(corpus, tmp_path):
    process = launch(tmp_path, corpus, extra=["train.max_steps=100000"], wait=False)
    wait_for_steps(process, tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    ranks_of(process)[1].kill()
    assert process.wait(timeout=60) != 0
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert "error: rank 0: lost another rank" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)
    (file,) = (tmp_path / "r" / "faults").iterdir()
    assert "Connection" in file.read_text()


BREAK = """
import math, os
if os.environ.get("RANK") == "1":
    true, calls = math.fsum, []
    def fsum(values):
        calls.append(1)
        if len(calls) > 9:
            raise ValueError("broken on purpose")
        return true(values)
    math.fsum = fsum
"""


def test_an_error_of_one_rank_is_told_by_it_and_ends_all(corpus, tmp_path, monkeypatch):
    (tmp_path / "break").mkdir()
    (tmp_path / "break" / "sitecustomize.py").write_text(BREAK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "break"))
    process = launch(tmp_path, corpus, extra=["train.max_steps=100000"], wait=False)
    wait_for_steps(process, tmp_path, 3)
    family = psutil.Process(process.pid).children(recursive=True)
    assert process.wait(timeout=60) != 0
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert "error: rank 1: ValueError: broken on purpose; the whole of it: " in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)
    (file,) = (tmp_path / "r" / "faults").glob("*-rank00001.txt")
    assert "ndt3_dist/train/loop.py" in file.read_text()

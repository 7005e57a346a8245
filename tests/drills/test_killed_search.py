"""A search whose run and whose driver are killed, and that is interrupted: it goes on each time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from ndt3_dist.config import PROJECT
from ndt3_dist.train.run_metrics import read_metrics

pytest.importorskip("pyarrow", reason="Ray Tune needs pyarrow: pip install ndt3_dist[search]")

CONFIG = PROJECT / "configs" / "stevenson.yaml"
SMALL = ["model.layers=1", "model.dim=64", "model.heads=2", "model.feedforward=64", "train.batch=2"]
SMALL += ["train.steps=600", "train.eval_every=200", "data.fit=calibration", "train.precision=fp32"]
SPACE = {"trials": 3, "seeds": 1, "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}}


def begin(folder: Path, corpus: str) -> subprocess.Popen:
    """The same command each time."""
    words = ["--config", str(CONFIG), "--space", "space.yaml", "--out", "s", "--threads", "1"]
    words += [*SMALL, f"data.corpus={corpus}", f"run.dir={folder}"]
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "launch" / "search.py"), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path[1:]])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(folder: Path) -> list[dict]:
    path = folder / "s" / "trials.jsonl"
    found = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in found if line.endswith("\n")]


def wait_for_step(folder: Path, process: subprocess.Popen, trial: int) -> None:
    """Until a run of a trial has made some steps."""
    deadline = time.monotonic() + 120
    while len(read_metrics(folder / "s" / f"trials/{trial:04d}/seed0")) < 20:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def of_forks(found: list[psutil.Process]) -> list[psutil.Process]:
    """The process that forks runs, then its run."""
    return [p for p in found if "ndt3_dist.cluster.search.fork" in p.cmdline()]


def test_a_search_that_is_killed_goes_on_and_a_run_that_is_killed_is_named(tmp_path, corpus):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    process = begin(tmp_path, corpus)
    wait_for_step(tmp_path, process, 0)
    run = next(p for p in of_forks(family(process)) if not p.children())
    run.kill()  # as for want of memory
    wait_for_step(tmp_path, process, 1)
    forking, run = of_forks(family(process))
    run.suspend()  # or it may be over before Ray has seen that its driver is gone
    process.kill()
    process.communicate()
    before = lines(tmp_path)
    assert [x.get("error") for x in before if x["trial"] == 0][1:] == [
        "seed 0: killed by SIGKILL; out of memory?"
    ]
    forking.wait(timeout=60)  # with Ray's worker, which knows nothing of the run
    run.resume()
    run.wait(timeout=30)  # it was asked to stop, and saved itself

    process = begin(tmp_path, corpus)
    wait_for_step(tmp_path, process, 2)
    assert "goes on behind step" in (tmp_path / "s/trials/0001/seed0.log").read_text()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    between = lines(tmp_path)
    assert between[: len(before)] == before

    process = begin(tmp_path, corpus)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    found = lines(tmp_path)
    assert found[: len(between)] == between
    ends = {x["trial"]: x["ended"] for x in found if "ended" in x}
    assert ends == {0: "failed", 1: "done", 2: "done"}
    assert sum("scores" in x for x in found) == 2  # none ran twice
    assert sum("settings" in x for x in found) == 3

    # Cut in two, it came to the very score of one that was left alone.
    alone = yaml.safe_load((tmp_path / "s/trials/0001/seed0.yaml").read_text())
    alone["run"]["dir"] = str(tmp_path / "alone")
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(alone))
    program = str(PROJECT / "launch" / "finetune.py")
    subprocess.run(
        [sys.executable, program, "--config", "alone.yaml"],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
    )
    scores = [m["val_r2"] for m in read_metrics(tmp_path / "alone" / "seed0") if "val_r2" in m]
    assert next(x["scores"] for x in found if x["trial"] == 1 and "scores" in x) == [max(scores)]

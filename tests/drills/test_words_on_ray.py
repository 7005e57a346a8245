"""An experiment on words whose driver is killed on Ray, and goes on in one process."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
from launching import ROOT

SMALL = [
    "training_params.epochs=4",
    "training_params.lag_step_size=600",
    "training_params.n_folds=4",
    "training_params.permutations=20",
    "model_spec.params.conv_filters=16",
]


def start(out, workers, log):
    program = [sys.executable, "launch/words.py", "demo", str(out), "--workers", workers, *SMALL]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        program, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def test_a_killed_experiment_on_ray_goes_on_elsewhere_to_the_same_bytes(tmp_path):
    out = tmp_path / "words"
    with (tmp_path / "log").open("w") as log:
        job, family, cells = start(out, "2", log), set(), out / "words_demo/cells"
        while len(list(cells.glob("*.json"))) < 3 and job.poll() is None:
            with contextlib.suppress(psutil.Error):
                family |= set(psutil.Process(job.pid).children(recursive=True))
            time.sleep(0.05)
        assert job.poll() is None, (tmp_path / "log").read_text()[-2000:]
        os.kill(job.pid, signal.SIGKILL)
        job.wait(60)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        done = {p: p.read_bytes() for p in cells.glob("*.json")}
        assert start(out, "0", log).wait(300) == 0
        assert start(tmp_path / "whole", "0", log).wait(300) == 0
    assert 3 <= len(done) < 16
    assert all(path.read_bytes() == held for path, held in done.items())
    for name in ("lag_performance.csv", "cells/lag_300_fold2_seed42.json"):
        mine, other = (folder / "words_demo" / name for folder in (out, tmp_path / "whole"))
        assert mine.read_bytes() == other.read_bytes()

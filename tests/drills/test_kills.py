"""A real two-process training, killed with SIGKILL at random moments, is the undisturbed one."""

import os
import time
from pathlib import Path

import pytest
from launching import kill_all, launch

from ndt3_dist.data.order import generator
from ndt3_dist.train.run_metrics import read_metrics

KILLS = int(os.environ.get("NDT3_KILLS", "50"))
STEPS = 240
LONG = [f"train.max_steps={STEPS}", "checkpoint.every_steps=7", "checkpoint.keep_last=2"]
LONG += ["checkpoint.max_starts=1000"]
WHAT = ("step", "position", "samples", "tokens", "loss", "grad_norm", "lr")


def stream_and_losses(folder: Path) -> list[dict]:
    return [{k: m[k] for k in WHAT} for m in read_metrics(folder / "r")]


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_a_run_killed_at_random_moments_is_the_undisturbed_one(corpus, tmp_path):
    """Saves are most of its time, its epochs are short: kills fall into both, and into starts."""
    code, log = launch(tmp_path / "whole", corpus, extra=LONG)
    assert code == 0, log
    expected = stream_and_losses(tmp_path / "whole")
    draw, kills, run = generator("kills"), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed{run}"
        process = launch(folder, corpus, extra=LONG, resume="auto", wait=False)
        began, steps = time.time(), len(read_metrics(folder / "r"))
        # Some die while they start; most, some moments after their first step.
        moment, early = float(draw.uniform(0, 4)), draw.random() < 0.1
        while process.poll() is None and time.time() - began < 120:
            time.sleep(0.01)
            if early and time.time() - began > moment:
                break
            if not early and len(read_metrics(folder / "r")) not in (steps, 0):
                time.sleep(moment / 2)
                break
        if process.poll() is None:
            kill_all(process)
            kills += 1
            found = stream_and_losses(folder)
            assert found == expected[: len(found)], f"after kill {kills}"
        else:
            last = max(folder.glob("log*.txt"), key=lambda f: f.stat().st_mtime)
            assert process.returncode == 0, last.read_text()
            assert stream_and_losses(folder) == expected
            run += 1
        print(f"kill {kills} of {KILLS}, run {run}", flush=True)

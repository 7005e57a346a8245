"""From NWB files to a validated submission, by the programs: a search is killed and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nlb_files import write_nlb

from ndt3_dist.config import PROJECT
from ndt3_dist.tasks.nlb.nlb_datasets import DATASETS
from ndt3_dist.tasks.nlb.nlb_h5 import read_h5

pytest.importorskip(
    "optuna", reason="a Bayesian search needs Optuna: pip install ndt3_dist[search]"
)
pytest.importorskip("pyarrow", reason="Ray Tune needs pyarrow: pip install ndt3_dist[search]")

TINY = ["model.layers=1", "model.hidden=8", "train.epochs=12", "optim.decay_epochs=12"]
TINY += ["validation.every_steps=4", "validation.patience=0"]


def command(*words) -> list[str]:
    return [sys.executable, str(PROJECT / "launch/nlb.py"), *map(str, words)]


def run(*words, code: int = 0) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def ended(trials: Path) -> int:
    return trials.read_text().count('"ended"') if trials.exists() else 0


def test_a_killed_search_goes_on_and_its_ensemble_is_validated(tmp_path):
    data, out = tmp_path / "data", tmp_path / "search"
    source = write_nlb(tmp_path / "nwb", "mc_maze_small", (16, 10, 4), (6, 4))
    run("data", "mc_maze_small", "--source", source, "--out", data, "num_workers=0")
    search = ("search", "mc_maze_small", "--data", data, "--out", out, "--seed", "3")
    search += ("--at-once", "1", "--threads", "1", "--samples", "2", *TINY)
    first = subprocess.Popen(command(*search), start_new_session=True)
    deadline = time.monotonic() + 240
    while not ended(out / "trials.jsonl") and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = (out / "trials.jsonl").read_text().splitlines()
    said = run(*search)
    assert "goes on with" in said
    after = (out / "trials.jsonl").read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1]  # what was over is not run again
    assert ended(out / "trials.jsonl") == 2
    settings = [json.loads(line)["settings"] for line in after if '"settings"' in line]
    assert len(settings) == 2
    assert settings[0] != settings[1]
    said = run("ensemble", "--runs", out, "--data", data, "--out", tmp_path / "test.h5")
    assert "chosen without the trials that are scored" in said
    group = read_h5(tmp_path / "test.h5")["mc_maze_small"]
    assert group["eval_rates_heldout"].shape == (4, 140, 4)
    said = run("validate", tmp_path / "test.h5", "--runs", out, "--data", data)
    assert "the rates are those of" in said
    run("ensemble", "--runs", out, "--data", data, "--out", tmp_path / "v.h5", "--phase", "val")
    said = run("evaluate", tmp_path / "v.h5", "--target", data / "val/target.h5")
    scores = json.loads(said.splitlines()[-1])["mc_maze_small"]
    assert scores.keys() == {"co-bps", "vel R2", "psth R2", "fp-bps"}
    said = run("evaluate", tmp_path / "test.h5", "--target", data / "val/target.h5", code=1)
    assert "error: " in said
    assert "4 trials, expected 10; those of another split or phase?" in said


@pytest.mark.drill
@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_goes_round(name, tmp_path):
    data = tmp_path / "data"
    source = write_nlb(tmp_path / "nwb", name, (12, 8, 4), (5, 3))
    run("data", name, "--source", source, "--out", data, "num_workers=0", "--bin-ms", "20")
    run("train", name, "--data", data, "--out", tmp_path / "runs/a", *TINY)
    runs = ("--runs", tmp_path / "runs", "--data", data)
    run("ensemble", *runs, "--out", tmp_path / "v.h5", "--phase", "val")
    run("validate", tmp_path / "v.h5", *runs, "--phase", "val")
    said = run("evaluate", tmp_path / "v.h5", "--target", data / "val/target.h5")
    scores = json.loads(said.splitlines()[-1])[f"{name}_20"]
    wanted = {"co-bps", "fp-bps", "tp corr" if name == "dmfc_rsg" else "vel R2"}
    assert scores.keys() == wanted | ({"psth R2"} if DATASETS[name].conditions else set())

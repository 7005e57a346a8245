"""Searches of a planted best learning rate with each method, in one Ray; what dies is named."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from forks import run_program
from small_corpus import make_recording, write_corpus

from ndt3_dist.data.order import generator

pytest.importorskip("pyarrow", reason="Ray Tune needs pyarrow: pip install ndt3_dist[search]")

CONFIG = {
    "run": {"name": "t"},
    "data": {"fit": "calibration", "val_fraction": 0.2},
    "model": {
        **{"layers": 1, "dim": 64, "heads": 2, "feedforward": 32, "channels_per_token": 32},
        **{"dropout": 0, "attention_dropout": 0, "context_tokens": False, "covariate_weight": 100},
        "behavior_dim": 17,
    },
    "optim": {"lr": 1e-3, "lr_min": 0, "schedule": "cosine", "warmup_epochs": 2}
    | {"decay_epochs": 60},
    "train": {"steps": 60, "batch": 4, "eval_every": 10, "precision": "fp32", "dropout": 0},
}
SPACE = {"draw": 116, "space": {"optim.lr": {"loguniform": [1e-6, 1]}}}
"""Whose first four are .37, .0050, .00015 and .84: the second is the planted one."""
LR, DIMS = [1e-6, 5e-3, 1.0], [17, 1]
SEARCHES = {
    "grid": {"seeds": 2, "space": {"optim.lr": LR, "model.behavior_dim": DIMS}},
    "random": {"trials": 4, **SPACE},
    "bayes": {"trials": 6, **SPACE},
    "asha": {"trials": 4, "first_steps": 20, "reduction": 2, **SPACE},
    "pbt": {"trials": 3, "every_steps": 20, **SPACE},
}
CODE = """
import contextlib, sys
from ndt3_dist.cluster.search import tuning
from ndt3_dist.programs.cluster import search
with tuning.tune_ray("local", 2) as pool:
    tuning.tune_ray = lambda *_: contextlib.nullcontext(pool)
    for method in sys.argv[1:]:
        print(method)
        sys.argv = ["search", "--config", "t.yaml", "--space", f"{method}_space.yaml"]
        at_once = "2" if method == "asha" else "1"
        sys.argv += ["--out", method, "--at-once", at_once, "--threads", "1"]
        search.main()
"""


def tuned_recording(number: int, seconds: float, channels: int):
    """Counts that follow from the covariates, so that a decoder can be had in seconds."""
    recording = make_recording(number, seconds, [channels])
    draw, times = generator("tuned", number), np.arange(0, seconds, 0.01)
    weights = draw.normal(size=(2, channels))
    weights /= np.linalg.norm(weights, axis=0)
    counts = draw.poisson(0.01 * np.exp(1.5 + 1.5 * recording.covariates @ weights))
    spikes = [np.repeat(times, n) + draw.uniform(0, 0.0099, n.sum()) for n in counts.T]
    return replace(recording, spike_times=[np.sort(s) for s in spikes])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus, a config and a space of each method."""
    folder = tmp_path_factory.mktemp("search")
    splits = [{"unit": "s", "intervals": {"calibration": (0, 40), "test": (40, None)}}]
    write_corpus(folder / "c", [tuned_recording(3, 50, 32)], splits=splits, window_ms=500)
    config = {**CONFIG, "data": {**CONFIG["data"], "corpus": str(folder / "c")}}
    config["run"] = {**CONFIG["run"], "dir": str(folder / "runs")}
    (folder / "t.yaml").write_text(yaml.safe_dump(config))
    for method, space in SEARCHES.items():
        text = yaml.safe_dump({"method": method, **space}, sort_keys=False)
        (folder / f"{method}_space.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def said(place) -> str:
    """What all of them said, in one process with one Ray."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *SEARCHES],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(place: Path, method: str, key: str = "trial") -> list[dict]:
    """Of trials.jsonl, those with a key."""
    found = (place / method / "trials.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, found) if key in line]


def scores_of(place: Path, method: str, trial: int) -> list[float]:
    return next(x["scores"] for x in lines(place, method, "scores") if x["trial"] == trial)


@pytest.mark.parametrize("method", SEARCHES)
def test_each_method_finds_the_planted_learning_rate(place, said, method):
    best = yaml.safe_load((place / method / "best.yaml").read_text())
    assert 2e-3 < best["optim"]["lr"] < 2e-2
    page = (place / method / "search.html").read_text()
    assert page.count("<figure") == 1 + len(SEARCHES[method]["space"])
    assert "best validation val_r2 so far" in page


def test_bayes_begins_as_a_random_search_and_leaves_it(place, said):
    asked, random = (
        [x["settings"]["optim.lr"] for x in lines(place, method, "settings")]
        for method in ("bayes", "random")
    )
    assert asked[:4] == random
    assert len({*asked}) == 6


def test_settings_that_lag_behind_end_early(place, said):
    ends = {x["trial"]: x["ended"] for x in lines(place, "asha", "ended")}
    assert "stopped" in ends.values()
    for number, ended in ends.items():
        steps = [x["step"] for x in lines(place, "asha", "step") if x["trial"] == number]
        assert (steps[-1] == 60) == (ended == "done")
        run = place / "asha" / f"trials/{number:04d}/seed0"
        assert (run / "export").exists() == (ended == "done")


def test_the_worst_of_a_population_go_on_from_copies_of_the_best(place, said):
    moved = lines(place, "pbt", "from")
    assert [m["step"] for m in moved] == [20, 40]
    settings = {x["trial"]: x["settings"] for x in lines(place, "pbt")[:3]}
    for move in moved:
        before, after = settings[move["from"]]["optim.lr"], move["settings"]["optim.lr"]
        assert after in (pytest.approx(0.8 * before), pytest.approx(1.25 * before), 1.0)
        settings[move["trial"]] = move["settings"]
    last = moved[-1]
    runs = [place / "pbt" / f"trials/{last[key]:04d}/seed0" for key in ("trial", "from")]
    copy, original = ((run / "metrics.jsonl").read_text().splitlines() for run in runs)
    assert copy[:40] == original[:40]
    assert len(copy) == len(original) == 60
    assert copy[40:] != original[40:]


def test_a_setting_that_dies_is_named_and_the_rest_goes_on(place, said):
    """Its model has one covariate, and the session two."""
    ends = {x["trial"]: x for x in lines(place, "grid", "ended")}
    assert [ends[n]["ended"] for n in range(6)] == ["done", "failed"] * 3
    error = "seed 0: session t-S-03 has 2 covariates; model.behavior_dim is 1"
    assert ends[1]["error"] == error
    assert f"failed: {error} ({place / 'grid' / 'trials' / '0001'})" in said


def test_seeds_are_no_hyperparameters(place, said):
    """Each setting has both; nothing else of their configs differs."""
    folder = place / "grid" / "trials" / "0002"
    first, second = (yaml.safe_load((folder / f"seed{n}.yaml").read_text()) for n in (0, 1))
    assert (first["run"].pop("seed"), second["run"].pop("seed")) == (0, 1)
    assert (first["run"].pop("name"), second["run"].pop("name")) == ("seed0", "seed1")
    assert first == second
    scores = scores_of(place, "grid", 2)
    assert f"{np.mean(scores):.4f}" in said
    assert f"standard deviation is {np.std(scores, ddof=1):.4f}" in said
    assert "promises more than test will give" in said


def test_the_best_config_runs_as_it_is_to_the_score_that_it_won_by(place, said):
    best = place / "random" / "best.yaml"
    done = run_program("launch/finetune.py", "--config", best, cwd=place)
    assert done.returncode == 0, done.stderr
    assert f"R2 {scores_of(place, 'random', 1)[0]:.4f} on the held-back part" in done.stdout


def test_a_search_that_is_over_runs_nothing_again(place, said):
    words = ["--config", "t.yaml", "--space", "random_space.yaml", "--out", "random"]
    before = (place / "random" / "trials.jsonl").read_text()
    done = run_program("launch/search.py", *words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "goes on with 4 trials, 4 of them over" in done.stdout
    assert "starting Ray" not in done.stdout
    assert (place / "random" / "trials.jsonl").read_text() == before

"""FALCON's own evaluator runs our decoders on files of its four structures."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from dockerfile import instructions
from falcon_files import public_name, write_file, write_fit, write_minival, write_random_export
from falcon_package import falcon_package

from ndt3_dist.config import PROJECT
from ndt3_dist.tasks.falcon.scores import falcon_r2
from ndt3_dist.tasks.falcon.scoring import evaluate
from ndt3_dist.tasks.falcon.submission import build_submission
from ndt3_dist.tasks.falcon.tags import TASKS
from ndt3_dist.tasks.falcon.text_fit import TextFit, fit_text

BOTH = """
import json, sys, torch
from ndt3_dist.tasks.falcon.decoder import How
from ndt3_dist.tasks.falcon.official import run_evaluator
from ndt3_dist.tasks.falcon.scoring import evaluate
found, data = {}, sys.argv[1]
for name, phase in (("h1", "minival"), ("h2", "minival"), ("m1", "minival"), ("m2", "minival"),
                    ("m1", "test"), ("m2", "test")):
    for keep in (True, False) if name == "m2" else (True,):
        where = f"{data}/fit_{name}", data, phase
        theirs = run_evaluator(*where, how=How(keep))
        found[f"{name} {phase} {keep}"] = theirs, evaluate(*where, how=How(keep))["scores"]
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files of minival, of m1 and m2 also of phase test, and a fit for each task."""
    folder = tmp_path_factory.mktemp("falcon")
    for name, task in TASKS.items():
        write_minival(folder, task)
        if task.dims:
            write_fit(folder / f"fit_{name}", name)
    h2 = TASKS["h2"]
    for number, tag in enumerate(h2.held_in[:2]):
        write_file(folder / "calib" / public_name(h2, tag, "calib"), h2, 60, number, gap=30)
    write_random_export(folder / "init", {})
    small = TextFit(steps=60, batch=2, hidden=32, every=60, lr=1e-2)
    fit_text("few-shot", [folder / "calib"], folder / "init", folder / "fit_h2", small)
    for name in ("m1", "m2"):
        task, made = TASKS[name], sorted(folder.glob(f"{name}*.nwb"))
        (folder / name / "eval").mkdir()
        for number, tag in enumerate(task.tags):
            side = "held_in" if tag in task.held_in else "held_out"
            stem = f"L_{tag}" if name == "m1" else f"sub-MonkeyN{tag}"
            there = folder / name / "eval" / f"{stem}_{side}_eval.nwb"
            there.hardlink_to(made[number % len(made)])
    return folder


def run(command, cwd, **environment):
    alone = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_scores_are_the_evaluators_to_the_last_digit(data):
    package = falcon_package()
    path = f"{package}:{PROJECT}"
    said = run([sys.executable, "-c", BOTH, str(data)], data, PYTHONPATH=path)
    found = json.loads(said.rpartition("FOUND ")[2])
    assert len(found) == 8
    for name, (theirs, ours) in found.items():
        latencies = theirs.pop("Normalized Latency"), ours.pop("Normalized Latency")
        assert min(latencies) > 0
        assert theirs == ours, name
        assert all(np.isfinite(v) for v in ours.values())
        sides = {key[:8] for key in ours}
        assert sides == ({"Held In ", "Held Out"} if "test" in name else {"Held In "})
    assert found["h2 minival True"][1]["Held In CER"] < 0.7  # it reads what it was fitted to
    assert found["m2 minival True"] != found["m2 minival False"]
    check_r2()


def check_r2() -> None:
    """One dimension that never moves, which evaluation files need not have, included."""
    from sklearn import metrics

    draw = np.random.default_rng(0)
    for number in range(50):
        true = draw.normal(3, np.linspace(1, 9, 7), (50 + number, 7))
        if number % 2:
            true[:, number % 7] = 1.5  # one that never moves
        predicted = true + draw.normal(size=true.shape)
        expected = metrics.r2_score(true, predicted, multioutput="variance_weighted")
        assert falcon_r2(true, predicted) == expected


def test_a_submission_decodes_as_its_image_will(data, tmp_path):
    """Its Dockerfile's steps but for pip's, in its folder, with its variables and its own code."""
    package, out = falcon_package(), tmp_path / "submission"
    build_submission(data / "fit_m2", out)
    steps = instructions("falcon.Dockerfile")
    values = dict(re.findall(r"(\w+)=(\S+)", " ".join(w for n, w in steps if n == "ENV")))
    values |= {"EVALUATION_LOC": "local", "PHASE": "minival", "EVAL_DATA_PATH": str(data)}
    for name in ("PREDICTION_PATH", "PREDICTION_PATH_LOCAL", "GT_PATH"):
        values[name] = f"{tmp_path}{values[name]}"
    (command,) = [json.loads(words) for name, words in steps if name == "CMD"]
    command[2] = command[2].replace("python ", f"{sys.executable} ")
    said = run(command, out, PYTHONPATH=str(package), **values)
    scores = dict(re.findall(r"(Held In R2 \w+\.?): (\S+)", said))
    ours = evaluate(data / "fit_m2", data)["scores"]
    assert {n: float(v) for n, v in scores.items()} == {
        n: ours[n] for n in ("Held In R2 Mean", "Held In R2 Std.")
    }
    assert (tmp_path / "tmp" / "submission.pkl").is_file()

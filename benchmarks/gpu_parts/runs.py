"""Runs of launch/pretrain.py, on a corpus that is simulated once for all parts."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from gpu_parts.common import DEVICE, Box

from ndt3_dist import log
from ndt3_dist.config import PROJECT, find_file, load_config
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.simulate.sessions import simulate

LAUNCHER = ["-m", "deepspeed.launcher.runner", "-q", "--num_accelerators", "1"]


def corpus_of(box: Box) -> Path:
    """A corpus of 96 channels, two covariates and bins of 20 ms, in the work folder."""
    out, made = box.work / "corpus", box.work / f"corpus_{os.getpid()}"
    if not out.is_dir():
        overrides = [f"source={made / 'nwb'}", f"out={made / 'corpus'}", "num_workers=0"]
        recipe = load_config(Recipe, find_file("demo.yaml", "data_prep/recipes"), overrides)
        sessions, minutes = (2, 0.5) if box.short else (6, 4.0)
        with contextlib.redirect_stdout(io.StringIO()):
            simulate(made / "nwb", sessions, minutes, seed=0, subjects=1, oracle="last")
            prepare(recipe)
        (made / "corpus").rename(out)
    return out


def start(
    box: Box, name: str, config: str, overrides: list[str], launcher: bool, resume: str = "never"
) -> subprocess.Popen:
    """Begin a run, with what it says in WORK/NAME.log."""
    command = [sys.executable, *(LAUNCHER if launcher else []), "launch/pretrain.py"]
    command += ["--config", config, "--resume", resume, f"data.corpus={corpus_of(box)}"]
    command += [f"run.dir={box.work / 'runs'}", f"run.name={name}", "log.every_steps=1"]
    environment = {**os.environ, **({"DS_ACCELERATOR": "cpu"} if DEVICE == "cpu" else {})}
    with (box.work / f"{name}.log").open("a") as file:
        return subprocess.Popen(
            [*command, *overrides], cwd=PROJECT, env=environment, stdout=file, stderr=file
        )


def succeeded(box: Box, name: str, run: subprocess.Popen) -> bool:
    """Wait for a run's end; where it failed, the end of what it said is said."""
    if run.wait() == 0:
        return True
    lines = (box.work / f"{name}.log").read_text(errors="replace").splitlines()[-30:]
    log.say("\n".join([f"{name}: exit {run.returncode}, the end of its log:", *lines]))
    return False

"""Runs of `deepspeed launch/pretrain.py` with a small model, to be left alone or killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ndt3_dist.train.run_metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "model.layers=2",
    "model.dim=64",
    "model.heads=2",
    "model.feedforward=64",
    "model.dropout=0.1",
    "model.channels_per_token=32",
    "model.count_classes=22",
    "model.spike_weight=1",
    "data.row_tokens=1024",
    "train.global_batch=4",
    "train.max_steps=12",
    "train.epochs=100",
    "optim.decay_epochs=20",
    "checkpoint.every_steps=4",
    "checkpoint.keep_last=10",
    "log.every_steps=1",
]


BREAK = """
import builtins, os, sys
if os.environ.get("RANK") == "1":
    true = builtins.__import__
    def hook(*args, **kwargs):
        module = true(*args, **kwargs)
        stream = sys.modules.get("ndt3_dist.data.stream")
        if stream and hasattr(stream, "Stream") and not hasattr(stream.Stream, "whole"):
            stream.Stream.whole = stream.Stream._fill
            def fill(self, step, position):
                self.whole(step, position)
                if WHERE:
                    step.batches[0][1]["covariates"][0] = float("nan")
            stream.Stream._fill = fill
        return module
    builtins.__import__ = hook
"""


def break_rank_1(folder, monkeypatch, where: str, also: str = "") -> None:
    """Every process started from here on gives rank 1 NaN in its first covariates.

    Args:
        folder: For the file that does it.
        where: Python over `position`, the rows before a step: "position == 4".
        also: Python that every process runs at its start.
    """
    (folder / "break").mkdir(exist_ok=True)
    text = also + BREAK.replace("WHERE", where)
    (folder / "break" / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder / "break"), prepend=os.pathsep)


def launch(
    run_dir,
    corpus,
    ranks=2,
    extra=(),
    resume="never",
    wait=True,
    options=(),
    launcher="deepspeed",
    **popen,
):
    """Start `deepspeed launch/pretrain.py`; its exit code and output, or the process.

    Args:
        ranks: That `deepspeed` starts; another launcher has it among its options.
        options: Of the launcher.
        popen: Of `subprocess.Popen`.
    """
    launch.count += 1
    command = [str(Path(sys.executable).with_name(launcher))]
    command += ["--num_accelerators", str(ranks)] if launcher == "deepspeed" else []
    command += [*options, "launch/pretrain.py", "--config", "demo.yaml", f"data.corpus={corpus}"]
    command += [f"run.dir={run_dir}", "run.name=r", "--resume", resume, *SMALL, *extra]
    # One thread a rank: the order in which threads share a sum shows in bf16 gradients.
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    log = Path(run_dir) / f"log{launch.count}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as f:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=f, stderr=subprocess.STDOUT, **popen
        )
    if not wait:
        return process
    code = process.wait(timeout=300)
    return code, log.read_text()


launch.count = 0


def kill_all(process):
    for p in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        p.send_signal(signal.SIGKILL)
    process.wait()


def losses(run_dir):
    return {m["step"]: m["loss"] for m in read_metrics(Path(run_dir) / "r")}


def ranks_of(process) -> list[psutil.Process]:
    """The processes of the ranks, in their order."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        command = child.cmdline()
        above = any(name in " ".join(command[:4]) for name in ("deepspeed", "torchrun"))
        if "launch/pretrain.py" in command and not above:
            found[child.environ()["RANK"]] = child
    return [found[key] for key in sorted(found)]


def wait_for_steps(process, folder, steps=5) -> None:
    deadline = time.time() + 120
    while len(losses(folder)) < steps:
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.01)


def log_of(folder) -> str:
    (log,) = [f.read_text() for f in folder.glob("log*.txt")]
    return log

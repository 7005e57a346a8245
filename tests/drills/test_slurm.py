"""Jobs of launch/slurm.sbatch on a cluster of this machine: preempted, cancelled, many at once."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT, SMALL
from ranks import run_ranks
from slurm import Slurm, missing

from ndt3_dist.train.run_metrics import read_metrics

TEMPLATE = ROOT / "launch" / "slurm.sbatch"
TASKS = ["--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
SHORT = ["train.max_steps=40", "checkpoint.every_steps=1000"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if lacking := missing():
        pytest.skip(f"no SLURM on this machine: {lacking}")
    with Slurm(tmp_path_factory.mktemp("slurm")) as found:
        found.environment |= {
            "NDT3_ENV": sys.prefix,
            "PYTHONPATH": str(ROOT),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        yield found
    assert all(process.poll() is not None for process in found.processes)


def submit(slurm, folder: Path, corpus, *words, options=(), tasks=TASKS) -> str:
    """Number of a job that trains."""
    command = ["sbatch", "--parsable", *tasks, f"--output={folder}/log-%j.txt", *options]
    command += [str(TEMPLATE), "--config", "demo.yaml", f"data.corpus={corpus}"]
    job = slurm.call(*command, f"run.dir={folder}", *SMALL, *words)
    assert job.strip(), job
    return job.strip()


def wait_for(what, seconds=240):
    deadline = time.time() + seconds
    while not what():
        assert time.time() < deadline
        time.sleep(0.1)


def losses(folder) -> dict[int, float]:
    return {m["step"]: m["loss"] for m in read_metrics(folder)}


def log_of(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.glob("log*.txt"))


def test_a_job_that_is_preempted_goes_on_and_one_that_is_cancelled_does_not(
    slurm, corpus, tmp_path
):
    code, log = run_ranks(tmp_path / "whole", corpus, 2, SHORT)
    assert code == 0, log
    job = submit(slurm, tmp_path, corpus, "run.name=r", *SHORT)
    wait_for(lambda: len(losses(tmp_path / "r")) > 4)
    slurm.call("srun", "--partition=high", "--ntasks=2", "true")  # waits until it has run
    assert "(rank 0: SIGTERM" in log_of(tmp_path)
    wait_for(lambda: slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING"))
    assert slurm.state(job) == "COMPLETED", log_of(tmp_path)
    assert f"job {job} is requeued" in log_of(tmp_path)
    assert "1 host, 2 ranks on cpu" in log_of(tmp_path)
    assert losses(tmp_path / "r") == losses(tmp_path / "whole" / "r")
    starts = [json.loads(s) for s in (tmp_path / "r" / "starts.jsonl").read_text().splitlines()]
    assert [s["note"] for s in starts] == [f"SLURM job {job}, restart {n}" for n in (0, 1)]
    assert starts[0]["from_step"] == 0 < starts[1]["from_step"]
    # Cancelled: it saves, too, and stays away.
    job = submit(slurm, tmp_path, corpus, "run.name=c", *SHORT)
    wait_for(lambda: len(losses(tmp_path / "c")) > 4)
    slurm.call("scancel", job)
    wait_for(lambda: job not in slurm.jobs())
    assert slurm.state(job) == "CANCELLED"
    assert len(list((tmp_path / "c" / "steps").iterdir())) == 1


def test_a_folder_of_configs_is_submitted_by_one_command(slurm, corpus, tmp_path):
    demo, names = (ROOT / "configs" / "demo.yaml").read_text(), ["a", "b", "c"]
    (tmp_path / "sweep").mkdir()
    for name in names:
        text = demo.replace("name: demo", f"name: run_{name}")
        (tmp_path / "sweep" / f"{name}.yaml").write_text(text)
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), str(tmp_path / "sweep")]
    command += [*one_task(tmp_path), f"data.corpus={corpus}", f"run.dir={tmp_path}", *SMALL]
    command += ["train.max_steps=2", "train.ranks=1"]
    done = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split("/")[-1] for line in done.stdout.splitlines()] == [f"run_{n}" for n in names]
    wait_for(lambda: not slurm.jobs())
    found = [losses(tmp_path / f"run_{name}") for name in names]
    assert [sorted(f) for f in found] == [[1, 2]] * 3, log_of(tmp_path)
    # Seeds of one of them, as an array; one is asked to stop while it begins, and is requeued.
    job = submit(
        slurm,
        tmp_path,
        corpus,
        "train.max_steps=2",
        options=["--array=3,4"],
        tasks=one_task(tmp_path),
    )
    wait_for(lambda: "demo-3 on" in log_of(tmp_path))
    slurm.call("scancel", "--signal=USR1", "--batch", f"{job}_3")
    for seed in (3, 4):
        wait_for(lambda s=seed: slurm.state(f"{job}_{s}") == "COMPLETED")
        config = (tmp_path / f"demo-{seed}" / "config.yaml").read_text()
        assert f"seed: {seed}\n" in config
        assert len(losses(tmp_path / f"demo-{seed}")) == 2
    assert "stopped before its end" in log_of(tmp_path)


def one_task(folder: Path) -> list[str]:
    return [
        "--ntasks-per-node=1",
        "--gpus-per-node=0",
        "--cpus-per-task=1",
        f"--output={folder}/log-%j.txt",
    ]

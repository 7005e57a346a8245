"""launch/slurm.sbatch beside an srun and a scontrol that only write down what they were told."""

import os
import subprocess

import pytest
from launching import ROOT

FAKES = {
    "srun": 'printf "%s\\n" "$@" > "$CALLS/told"; exit "$CODE"',
    "scontrol": (
        'case "$1 $2" in "show hostnames") echo node-3; echo node-4 ;; '
        '"show job") echo "JobId=7 JobState=$STATE Reason=None" ;; '
        '*) echo "$@" > "$CALLS/requeued" ;; esac'
    ),
    "sleep": "",
}


@pytest.fixture
def job(tmp_path):
    """Runs the script as SLURM would; its exit code, words of srun, and whether it was requeued."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(*words, code=0, state="RUNNING", **environment):
        given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path)}
        given |= {"CODE": str(code), "STATE": state, "SLURM_JOB_ID": "40007"}
        given |= {"SLURM_JOB_NODELIST": "node-[3-4]", **environment}
        command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)
        requeued = tmp_path / "requeued"
        found = done.returncode, (tmp_path / "told").read_text().splitlines(), requeued.exists()
        requeued.unlink(missing_ok=True)
        return found

    return run


@pytest.mark.parametrize(
    ("code", "state", "ends", "requeued"),
    [
        (0, "RUNNING", 0, False),
        (75, "RUNNING", 75, True),
        (75, "CANCELLED", 75, False),
        (143, "RUNNING", 75, True),  # a signal came before ranks listened to it
        (1, "RUNNING", 1, False),
    ],
)
def test_a_job_is_requeued_where_it_was_stopped_and_not_cancelled(job, code, state, ends, requeued):
    found = job("--config", "demo.yaml", code=code, state=state)
    assert (found[0], found[2]) == (ends, requeued)


def test_a_job_of_an_array_has_a_seed_and_a_run_of_its_own(job):
    for words, name in (
        (["--config", "configs/demo.yaml"], "demo"),
        (["--config=demo.yaml", "train.epochs=2"], "demo"),
        (["--config", "demo.yaml", "run.name=mine"], "mine"),
    ):
        _, told, _ = job(*words, SLURM_ARRAY_TASK_ID="3")
        assert told[-2:] == ["run.seed=3", f"run.name={name}-3"]
        assert told[-2 - len(words) : -2] == words
    _, told, _ = job("--config", "demo.yaml")
    assert told[-1] == "demo.yaml"


def test_one_variable_says_what_python_runs(job, tmp_path):
    module = ["-m", "ndt3_dist.programs.pretrain"]
    for environment, started, option in (
        (None, [f"{tmp_path}/.venv/bin/python"], ""),
        ("/opt/venv", ["/opt/venv/bin/python"], ""),
        ("/i/a.sif", ["/i/a.sif", "python"], ""),
        ("/i/a.sqsh", ["python"], "--container-image=/i/a.sqsh"),
        ("docker://lab/ndt3", ["python"], "--container-image=docker://lab/ndt3"),
    ):
        given = {"NDT3_ENV": environment} if environment else {}
        _, told, _ = job("--config", "demo.yaml", **given, NDT3_MOUNTS="/data")
        at = told.index(module[0])
        assert told[at - len(started) : at + 2] == [*started, *module]
        assert not option or option in told
        if option:
            assert f"--container-mounts={tmp_path}:{tmp_path},/data:/data" in told
        if "sif" in started[0]:
            assert "apptainer" in told
            assert f"{tmp_path},/data" in told

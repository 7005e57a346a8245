"""A SLURM job for each config of a folder: all are checked before the first is submitted."""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput, ClusterFailed
from ndt3_dist.train.pretrain_config import PretrainConfig

TEMPLATE = PROJECT / "launch" / "slurm.sbatch"


@dataclass(frozen=True)
class Job:
    """A config to be trained.

    Attributes:
        run: Folder of its run.
        command: `sbatch` and all its words.
    """

    run: str
    command: list[str]

    def __str__(self) -> str:
        return shlex.join(self.command)


def jobs(
    path: Path, overrides: Sequence[str], options: Sequence[str], template: Path = TEMPLATE
) -> list[Job]:
    """The jobs of a folder of configs, in order of their names, or of one config.

    Args:
        overrides: section.key=value for all of them.
        options: Of sbatch.
        template: The script that a job runs.
    Raises:
        BadInput: There is no config, one of them is not right, two have one run, or there is no
            template.
    """
    if not template.is_file():
        raise BadInput(f"--template {template}: no such file; give a copy of launch/slurm.sbatch")
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; expected a config, or a folder of them")
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path}: has no *.yaml; expected a config a run")
    found, whose, wrong = [], {}, []
    for file in files:
        try:
            config = load_config(PretrainConfig, file, overrides)
        except BadInput as e:
            wrong.append(str(e))
            continue
        run = storage.join(config.run.dir, config.run.name)
        if run in whose:
            wrong.append(f"{file} and {whose[run]} have one run, {run}; give each a run.name")
        whose[run] = file
        words = ["sbatch", "--parsable", f"--job-name={config.run.name}", *options, str(template)]
        found.append(Job(run, [*words, "--config", str(file.absolute()), *overrides]))
    if wrong:
        raise BadInput("; ".join(wrong))
    return found


def submit(job: Job) -> str:
    """Hand a job to SLURM; its number.

    Raises:
        ClusterFailed: sbatch is not there or refused it.
    """
    try:
        done = subprocess.run(job.command, capture_output=True, text=True)
    except FileNotFoundError as e:
        raise ClusterFailed("no sbatch on this host; submit from a login node of SLURM") from e
    if done.returncode:
        raise ClusterFailed(f"sbatch refused the job of {job.run}: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]

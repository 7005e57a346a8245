"""Submit a SLURM job for each config of a folder, all checked before the first one.

Example:
    ndt3 submit sweep --partition=gpu --nodes=2 run.dir=/data/runs
    ndt3 submit sweep/wide.yaml --array=0-4          # five seeds of one config
    ndt3 submit sweep --dry-run                      # the commands alone

Options that are not listed here are sbatch's, as --name=value. Jobs are launch/slurm.sbatch: they
go on by themselves when they are preempted. The same command goes on with runs that have begun.
"""

import argparse
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.cluster.submit import TEMPLATE, jobs, submit
from ndt3_dist.errors import BadInput, ClusterFailed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="folder of configs (*.yaml), or one config")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and stop")
    parser.add_argument(
        "--template", type=Path, default=TEMPLATE, help="a copy of launch/slurm.sbatch"
    )
    args, others = parser.parse_known_args()
    options = [word for word in others if word.startswith("-")]
    overrides = [word for word in others if not word.startswith("-")]
    lone = [word for word in overrides if "=" not in word]
    if lone:
        raise BadInput(
            f"{lone[0]!r} is no override section.key=value; an option of sbatch is written "
            "--name=value"
        )
    found = jobs(args.path, overrides, options, args.template)
    for number, job in enumerate(found):
        if args.dry_run:
            log.say(str(job))
            continue
        try:
            log.say(f"job {submit(job)}: {job.run}")
        except ClusterFailed as e:
            raise ClusterFailed(f"{e} ({number} of {len(found)} jobs were submitted)") from e


if __name__ == "__main__":
    log.run_program(main)

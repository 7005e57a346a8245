"""Does pretraining pay with one minute of data? `make demo` over several seeds, as one table.

A seed decides the simulated recordings, the initial weights and the order of the data. All of the
results are shown, whichever wins.

Example:
    python benchmarks/demo_seeds.py --seeds 5
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from ndt3_dist import log, storage
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.shards.report import text_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default: 5)")
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):
        name = f"demo-seed-{seed}"
        command = [sys.executable, "launch/demo.py", "--seed", str(seed), "--name", name]
        if subprocess.run(command, cwd=PROJECT).returncode:
            raise Ndt3DistError(f"the demo failed at seed {seed}, see above")
        summary = storage.read_json(PROJECT / "runs" / name / "summary.json")
        rows.append(
            {
                "seed": seed,
                "R2 fine-tuned": f"{summary['r2_finetuned']:.4f}",
                "R2 scratch": f"{summary['r2_scratch']:.4f}",
                "R2 ridge": f"{summary['r2_ridge']:.4f}",
                "R2 best possible": f"{summary['r2_best_possible']:.4f}",
                "loss": f"{summary['loss_first']:.3f} -> {summary['loss_last']:.3f}",
                "tokens/s": summary["tokens_per_s"],
                "seconds": summary["seconds"],
            }
        )
        log.say(text_table(rows))
    tuned, scratch, ridge = (
        np.array([float(r[k]) for r in rows]) for k in ("R2 fine-tuned", "R2 scratch", "R2 ridge")
    )
    wins = int(((tuned > scratch) & (tuned > ridge)).sum())
    verdict = (
        f"fine-tuned beats both in {wins} of {len(rows)} seeds; mean margin over scratch "
        f"{np.mean(tuned - scratch):+.4f}, over ridge {np.mean(tuned - ridge):+.4f} "
        f"(worst {np.min(tuned - ridge):+.4f})"
    )
    today = datetime.date.today().isoformat()
    text = f"{header()}\n\n{text_table(rows)}\n\n{verdict}\n"
    path = PROJECT / "benchmarks" / "results" / f"demo_seeds_{today}.txt"
    storage.write_bytes(path, text.encode())
    log.say(f"\n{text}\n{path.relative_to(PROJECT)}")


def header() -> str:
    """What was run, on what, with which versions."""
    import deepspeed

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True
    ).stdout.strip()
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"python benchmarks/demo_seeds.py  commit {commit}\n"
        f"{datetime.date.today()}, {cpu}, {len(os.sched_getaffinity(0))} cores, "
        f"python {platform.python_version()}, torch {torch.__version__}, "
        f"deepspeed {deepspeed.__version__}"
    )


if __name__ == "__main__":
    log.run_program(main)

"""Does pretraining pay with one minute of data? `make demo` over several seeds, as one table.

A seed decides the simulated recordings, the initial weights and the order of the data. All of the
results are shown, whichever wins. --passes 8 takes the whole schedule of configs/demo.yaml, of
which `make demo` takes less where two cores are too slow for it.

Example:
    python benchmarks/demo_seeds.py --seeds 5 --passes 8
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default: 5)")
    parser.add_argument(
        "--keep", action="store_true", help="fit and score again where a seed's export is at hand"
    )
    parser.add_argument("--passes", type=float, help="of pretraining (default: as `make demo`)")
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):
        name = f"demo-seed-{seed}"
        command = [sys.executable, "launch/demo.py", "--seed", str(seed), "--name", name]
        command += ["--keep"] * args.keep
        command += ["--passes", str(args.passes)] if args.passes else []
        if subprocess.run(command, cwd=PROJECT).returncode:
            raise Ndt3DistError(f"the demo failed at seed {seed}, see above")
        summary = storage.read_json(PROJECT / "runs" / name / "summary.json")
        rows.append(
            {
                "seed": seed,
                "R2 read out": f"{summary['r2_readout']:.4f}",
                "R2 fine-tuned": f"{summary['r2_finetuned']:.4f}",
                "R2 scratch": f"{summary['r2_scratch']:.4f}",
                "R2 ridge": f"{summary['r2_ridge']:.4f}",
                "R2 best possible": f"{summary['r2_best_possible']:.4f}",
                "passes": summary["passes"],
                "loss": f"{summary['loss_first']:.3f} -> {summary['loss_last']:.3f}",
                "tokens/s": summary["tokens_per_s"],
                "seconds": summary["seconds"],
            }
        )
        log.say(text_table(rows))
    scratch, ridge = (np.array([float(r[k]) for r in rows]) for k in ("R2 scratch", "R2 ridge"))
    verdict = "\n".join(
        f"{name} beats scratch and ridge in {((r2 > scratch) & (r2 > ridge)).sum()} of {len(rows)} "
        f"seeds; mean margin over scratch {np.mean(r2 - scratch):+.4f}, over ridge "
        f"{np.mean(r2 - ridge):+.4f} (worst {np.min(r2 - ridge):+.4f})"
        for name in ("R2 read out", "R2 fine-tuned")
        for r2 in [np.array([float(r[name]) for r in rows])]
    )
    text = f"{header(' '.join(['python', *sys.argv]))}\n\n{text_table(rows)}\n\n{verdict}\n"
    log.say(f"\n{text}\n{save('demo_seeds', text)}")


if __name__ == "__main__":
    log.run_program(main)

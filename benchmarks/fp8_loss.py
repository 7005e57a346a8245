"""What products in 8 bits do to the loss: the demo pretrained with and without, seed by seed.

Where there is no GPU that has them they are imitated: inputs are rounded to 8 bits and multiplied
in float32. Needs the demo's corpus (`make demo`).

Example:
    python benchmarks/fp8_loss.py --steps 1500 --seeds 2
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.config import PROJECT
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.run_metrics import read_metrics

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

LAST = 100
"""Steps over which the training loss is averaged."""


def pretrained(folder: Path, corpus: str, steps: int, seed: int, fp8: str) -> tuple[float, ...]:
    """Mean loss of the last steps, and loss and R2 on held-out windows, of one pretraining."""
    name = f"{fp8}-{seed}"
    command = [sys.executable, "-m", "ndt3_dist.programs.pretrain", "--config", "demo.yaml"]
    command += [f"data.corpus={corpus}", f"run.dir={folder}", f"run.name={name}"]
    command += [f"run.seed={seed}", f"train.fp8={fp8}", f"train.max_steps={steps}"]
    command += [f"validation.every_steps={steps}", f"checkpoint.every_steps={steps}"]
    command += ["validation.split=calibration"]  # which a demo's pretraining does not see
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    found = read_metrics(folder / name)
    trained = statistics.mean(m["loss"] for m in found[-LAST:])
    (scores,) = [m for m in found if "val_loss" in m]
    return trained, scores["val_loss"], scores["val_r2"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default=str(PROJECT / "corpora/demo/corpus"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for fp8 in ("off", "tensorwise", "rowwise"):
                found = pretrained(Path(folder), args.corpus, args.steps, seed, fp8)
                names = "train loss", "val loss", "val R2"
                cells = {n: f"{v:.4f}" for n, v in zip(names, found, strict=True)}
                rows.append({"seed": seed, "train.fp8": fp8, **cells})
                log.say(str(rows[-1]))
    text = f"{header('python benchmarks/fp8_loss.py')}\n\ndemo.yaml, {args.steps} steps of 2 rows; "
    text += f"train loss over the last {LAST}\n{text_table(rows)}\n"
    log.say(text)
    log.say(str(save("fp8_loss", text)))


if __name__ == "__main__":
    log.run_program(main)

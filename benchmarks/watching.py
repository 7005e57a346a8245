"""What it costs that ranks watch each other: steps with the clock of phases and steps without.

One run of two ranks, in which pairs of steps have the clock off in one of both, drawn for all ranks
alike. The difference of a pair has the noise of a shared machine; so the parts are measured too:
phases of a step and what one costs, and the CPU time of the threads that talk and watch.

Example:
    python data_prep/simulate.py /tmp/nwb && python data_prep/preprocess.py --recipe demo.yaml \\
        source=/tmp/nwb out=/tmp/corpus
    python benchmarks/watching.py data.corpus=/tmp/corpus
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ndt3_dist.config import PROJECT
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save


def rank(out: str, arguments: list[str]) -> None:
    """A rank of the run; the first writes what it measured."""
    import psutil

    from ndt3_dist.engines.phases import FORWARD, Phases
    from ndt3_dist.programs.pretrain import main
    from ndt3_dist.train.loop import Loop
    from ndt3_dist.train.watch import RankWatch

    draw, off, steps = random.Random(0), [False], []
    at, take_step, close = Phases.at, Loop.take_step, RankWatch.close

    def at_if_on(self, phase):
        return contextlib.nullcontext() if off[0] else at(self, phase)

    def timed_step(self, work):
        off[0] = draw.random() < 0.5 if len(steps) % 2 == 0 else not off[0]
        moves, began = self.run.engine.phases.moves, time.perf_counter()
        found = take_step(self, work)
        took = time.perf_counter() - began
        steps.append([off[0], took, self.run.engine.phases.moves - moves])
        off[0] = False
        return found

    def close_and_write(self):
        process, own = psutil.Process(), (self._talking.native_id, self._watching.native_id)
        on_cpu = [Path(f"/proc/self/task/{thread}/schedstat").read_text() for thread in own]
        cpu = sum(int(text.split()[0]) for text in on_cpu) / 1e9
        clock, began = Phases(), time.perf_counter()
        for _ in range(100_000):
            with at(clock, FORWARD):
                pass
        a_move = (time.perf_counter() - began) / 200_000
        found = {"steps": steps, "threads_s": cpu, "s": time.time() - process.create_time()}
        if self.rank == 0:
            Path(out).write_text(json.dumps({**found, "a_move": a_move}))
        close(self)

    Phases.at = at_if_on  # pyright: ignore[reportAttributeAccessIssue]
    Loop.take_step, RankWatch.close = timed_step, close_and_write
    sys.argv = ["pretrain", *arguments]
    main()


def compare(arguments: list[str], steps: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/measured.json"
        command = [str(Path(sys.executable).with_name("deepspeed")), "-q"]
        command += ["--num_accelerators", "2", __file__, "--out", out, *arguments]
        command += [f"run.dir={folder}", f"train.max_steps={steps}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=PROJECT, env=environment, check=True)
        return json.loads(Path(out).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="demo.yaml")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", help=argparse.SUPPRESS)  # a rank's
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="+", metavar="section.key=value")
    args = parser.parse_intermixed_args()
    arguments = ["--config", args.config, *args.overrides]
    if args.out:
        rank(args.out, arguments)
        return
    found = compare(arguments, args.steps)
    kept = found["steps"][4 : 4 + (len(found["steps"]) - 4) // 2 * 2]  # pairs, warm
    is_off, took, moves = (np.array(column) for column in zip(*kept, strict=True))
    without, with_it = np.median(took[is_off]), np.median(took[~is_off])
    pairs = took.reshape(-1, 2) * np.where(is_off, -1, 1).reshape(-1, 2)
    differences = pairs.sum(axis=1) / without
    error = 1.2533 * differences.std() / np.sqrt(len(differences))  # of a median
    a_step = moves[~is_off].mean() * found["a_move"]
    rows = [
        ["step without, median", f"{1e3 * without:.1f} ms"],
        ["step with, median", f"{1e3 * with_it:.1f} ms"],
        [f"difference of {len(differences)} pairs, median",
         f"{np.median(differences):+.2%} (standard error {error:.2%})"],
        ["fastest tenth of steps without, with",
         " ms, ".join(f"{1e3 * np.quantile(t, 0.1):.1f}" for t in (took[is_off], took[~is_off]))
         + " ms"],
        ["changes of phase in a step", f"{moves[~is_off].mean():.0f}"],
        ["one of them", f"{1e6 * found['a_move']:.2f} us"],
        ["all of them, of a step", f"{a_step / without:.4%}"],
        ["threads that talk and watch, of a core", f"{found['threads_s'] / found['s']:.3%}"],
    ]  # fmt: skip
    shown = " ".join(a for a in arguments if not a.startswith("data.corpus"))
    table = text_table([{"measured": what, "value": value} for what, value in rows])
    text = f"{header('watching.py')}\n{shown}\n\n{table}\n"
    print(f"{text}\n{save('watching', text)}")


if __name__ == "__main__":
    main()

"""A run killed by SIGKILL at half and resumed: every loss is that of a run that nobody killed."""

import re
import time

from gpu_parts.common import Box, Table, read_box
from gpu_parts.runs import corpus_of, start, succeeded

from ndt3_dist import log
from ndt3_dist.train.run_metrics import read_metrics

CONFIG = "demo.yaml"
SMALL = ["model.layers=4", "model.dim=192", "model.heads=3", "model.feedforward=192"]
TINY = ["model.layers=1"]
STEPS = {False: (200, 30), True: (30, 10)}
"""Of a run, and from a save to the next; in the short form."""


def overrides(short: bool) -> list[str]:
    """Of the config: a small model with dropout, which is drawn anew after a resume."""
    steps, saves = STEPS[short]
    found = [f"train.max_steps={steps}", f"checkpoint.every_steps={saves}", "train.epochs=1000"]
    found += ["model.dropout=0.1", "model.attention_dropout=0.1"]
    return found + (TINY if short else SMALL)


def losses(box: Box, name: str) -> dict[int, float]:
    """By step."""
    return {m["step"]: m["loss"] for m in read_metrics(box.work / "runs" / name)}


def main() -> int:
    box = read_box(__doc__)
    corpus_of(box)
    given, (steps, _) = (CONFIG, overrides(box.short)), STEPS[box.short]
    whole = start(box, "whole", *given, launcher=False)
    killed = start(box, "killed", *given, launcher=False)
    while killed.poll() is None and len(losses(box, "killed")) < steps // 2:
        time.sleep(0.01)
    killed.kill()
    if killed.wait() >= 0:
        succeeded(box, "killed", killed)
        log.say("it ended before it was killed")
        return 1
    at = len(losses(box, "killed"))
    resumed = start(box, "killed", *given, launcher=False, resume="auto")
    if not all([succeeded(box, "whole", whole), succeeded(box, "killed", resumed)]):
        return 1
    one, other = losses(box, "whole"), losses(box, "killed")
    equal = sum(one[step] == other.get(step) for step in one)
    worst = max(abs(one[step] - other.get(step, float("inf"))) for step in one)
    said = re.findall(r"resuming from step (\d+)", (box.work / "killed.log").read_text())
    table = Table("steps  killed at  resumed from  losses equal to the last bit  largest gap")
    table.add(steps, at, *said[-1:], f"{equal} of {steps}", f"{worst:.1e}")
    return int(not (len(one) == steps == equal and said))


if __name__ == "__main__":
    log.run_program(main)

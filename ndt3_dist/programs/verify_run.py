"""Say which checkpoints of a run are intact; exit 1 where one is damaged or there is none.

And what its weights have seen, as its lineage.json has it; one that cannot be read is damage, too.

Example:
    python checkpoints/verify.py runs/demo
"""

import argparse

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run")
    run = parser.parse_args().run
    with log.waiting("loading torch"):
        from ndt3_dist.checkpoint.lineage import at_step, lines
        from ndt3_dist.checkpoint.steps import open_step, steps_of
    from ndt3_dist.errors import CheckpointCorrupt

    if not storage.exists(run):
        raise BadInput(f"{run}: no such run folder; expected runs/NAME of a pretraining")
    steps, damaged, last = steps_of(run), 0, None
    for step in log.progress(steps, "verifying, checkpoints"):
        try:
            found = open_step(run, step)
            found.verify()
            last = found.meta
            log.say(f"{step:8d}  intact")
        except CheckpointCorrupt as e:
            damaged += 1
            log.say(f"{step:8d}  damaged: {e}")
    log.say(f"{run}: {len(steps) - damaged} of {len(steps)} checkpoints intact")
    if last:
        try:
            chain = at_step(run, last["step"], last["epochs"])
            for line in ["nobody wrote down what it saw"] if chain is None else lines(chain):
                log.say(line)
        except (BadInput, KeyError, TypeError, AttributeError) as e:
            damaged += 1
            log.say(f"lineage.json  damaged: {type(e).__name__}: {e}")
    return 1 if damaged or not steps else 0


if __name__ == "__main__":
    log.run_program(main)

"""Say which checkpoints of a run are intact; exit 1 where one is damaged or there is none.

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
        from ndt3_dist.checkpoint.steps import open_step, steps_of
    from ndt3_dist.errors import CheckpointCorrupt

    if not storage.exists(run):
        raise BadInput(f"{run}: no such run folder; expected runs/NAME of a pretraining")
    steps, damaged = steps_of(run), 0
    for step in log.progress(steps, "verifying, checkpoints"):
        try:
            open_step(run, step).verify()
            log.say(f"{step:8d}  intact")
        except CheckpointCorrupt as e:
            damaged += 1
            log.say(f"{step:8d}  damaged: {e}")
    log.say(f"{run}: {len(steps) - damaged} of {len(steps)} checkpoints intact")
    return 1 if damaged or not steps else 0


if __name__ == "__main__":
    log.run_program(main)

"""List the windows that a step of a run was trained on, read and verified again.

Example:
    python launch/replay.py --run runs/demo --step 1234
    python launch/replay.py --run runs/demo --step 1234 --dump batch.npz
"""

import argparse

from ndt3_dist import log
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.summary import text_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument("--step", required=True, type=int, help="number of the step, from 1")
    parser.add_argument("--corpus", help="where the corpus lies now (default: the run's own)")
    parser.add_argument("--dump", metavar="FILE", help="also write the packed arrays as .npz")
    args = parser.parse_args()
    with log.waiting("loading torch"):
        from ndt3_dist.train.replay import dump, replay

    with log.waiting(f"planning and reading step {args.step} again"):
        found = replay(args.run, args.step, args.corpus)
    log.say(text_table(found.rows))
    shares = [
        {"session": name, "windows": windows, "expected": f"{expected:.1f}"}
        for name, windows, expected in found.stream.over_represented(found.step.rows)
    ]
    log.say(f"\nmost over-represented\n{text_table(shares)}" if shares else "")
    if found.damaged:
        raise ShardCorrupt("; ".join(found.damaged))
    log.say(f"{len(found.rows)} windows, {found.step.tokens:,} tokens: all have their hashes")
    if args.dump:
        dump(found, args.dump)
        log.say(args.dump)


if __name__ == "__main__":
    log.run_program(main)

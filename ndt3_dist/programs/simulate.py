"""Write simulated motor-cortex recordings as NWB files, with the best R2 any decoder can reach.

Exit status: 0 done, or the folder already holds this simulation; 1 the folder holds something
else; 2 bad arguments.

Example:
    python data_prep/simulate.py recordings --sessions 9 --minutes 4 --seed 0
"""

import argparse
import sys

from ndt3_dist import log
from ndt3_dist.simulate.sessions import (
    ORACLE,
    check_arguments,
    find_simulation,
    format_table,
    simulate,
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", help="folder to write; new or empty")
    parser.add_argument("--sessions", type=int, default=9, help="sessions in all (default 9)")
    parser.add_argument("--minutes", type=float, default=4.0, help="length of each (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same data (default 0)")
    parser.add_argument("--subjects", type=int, default=3, help="monkeys, 1 to 26 (default 3)")
    parser.add_argument(
        "--oracle",
        choices=ORACLE,
        default="all",
        help="sessions whose best possible R2 is computed: all, or each subject's last",
    )
    args = parser.parse_args()
    try:
        arguments = check_arguments(
            args.sessions, args.minutes, args.seed, args.subjects, args.oracle
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    is_old = find_simulation(args.out, arguments) is not None
    try:
        result = simulate(args.out, **arguments)
    except FileExistsError as error:
        print(f"error: {error}; choose another folder or empty it", file=sys.stderr)
        return 1
    print(format_table(result))
    if is_old:
        print(f"{args.out} already holds this simulation; nothing was written")
    else:
        print(f"{len(result['sessions'])} files and simulation.json written to {args.out}")
    return 0


if __name__ == "__main__":
    log.run_program(main)

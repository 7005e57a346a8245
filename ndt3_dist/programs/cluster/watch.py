"""Watch a run as it goes, on a terminal or as plain lines, from its folder on a disk or in a store.

Example:
    ndt3 watch runs/demo
    ndt3 watch s3://lab/runs/big --lines | tee big.txt

It reads only what is new, goes on over restarts, and ends with Ctrl-C; the run does not notice.
"""

import argparse
import os
import select
import sys

from ndt3_dist import log, storage, voice
from ndt3_dist.errors import BadInput
from ndt3_dist.train import run_metrics, settings

EVERY_S = {False: 1.0, True: 10.0}
"""Between two looks, on a disk and in a store."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run, a path or an s3:// URL")
    parser.add_argument(
        "--lines", action="store_true", help="plain lines, as where there is no terminal"
    )
    parser.add_argument("--before", type=int, default=10, help="lines of steps that were there")
    parser.add_argument(
        "--every", type=int, default=0, help="steps of a line (default: the run's log.every_steps)"
    )
    parser.add_argument(
        "--every-s", type=float, help="seconds between two looks (default: 1; in a store 10)"
    )
    args = parser.parse_args()
    every_s = EVERY_S[storage.is_remote(args.run)] if args.every_s is None else args.every_s
    if not every_s > 0:
        raise BadInput(f"--every-s {every_s:g}: expected seconds above 0")
    check(args.run)
    from ndt3_dist.pages.followed_run import FollowedRun

    run = FollowedRun(args.run)
    try:
        if args.lines or not voice.has_bars(sys.stdout):
            watch_lines(run, args.every, args.before, every_s)
        else:
            from ndt3_dist.cluster.watch.screen import show

            show(run, lambda: update(run), every_s)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # a reader that has gone, as `| head`; nothing is left to be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check(run: str) -> None:
    """Refuse a folder that is no run. Raises BadInput."""
    names = {*storage.list_names(run)}
    expected = {run_metrics.FILE, settings.FILE, settings.STARTS, settings.LEASE, "config.json"}
    if not names & expected:
        found = f"it has {', '.join(sorted(names)[:5])}" if names else "nothing is there"
        raise BadInput(f"{run}: no run ({found}); expected the folder of one, as runs/NAME")


def update(run) -> None:
    """Read all that is new; of a long run that takes seconds."""
    run.update()
    if run.left:
        with log.waiting(f"reading {run.file.path}"):
            while run.left:
                run.update()


def watch_lines(run, every: int, before: int, every_s: float) -> None:
    """Print what is new, again and again."""
    from ndt3_dist.cluster.watch.lines import Lines

    lines = Lines(run, every, before)
    while True:
        update(run)
        for line in lines.new():
            print(log.without_secrets(line), flush=True)
        wait(every_s)


def wait(seconds: float) -> None:
    """Until the next look. Raises BrokenPipeError as soon as nobody reads any more."""
    ended = select.poll()
    ended.register(sys.stdout.fileno(), 0)  # an end is told without being asked for
    if ended.poll(1000 * seconds):
        raise BrokenPipeError


if __name__ == "__main__":
    log.run_program(main)

"""Take sessions out of a corpus, as when a participant withdraws: no byte of them stays.

The shards that hold them are rewritten, the manifest follows, then old shards go, here and in this
host's cache, and with them all old versions and unfinished uploads that a bucket keeps below the
corpus. What it does not let go is named, with exit code 1; the same without --session tries again.
Runs and exports that have seen them, themselves or by what they were trained from, are listed;
their weights and checkpoints stay as they are.

Example:
    python data_prep/remove.py corpora/mine --session mine-A-01 --runs runs
"""

import argparse
from pathlib import Path

from ndt3_dist import log
from ndt3_dist.errors import BadInput, StoreFailed
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.shards.cache import default_cache


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="folder or s3:// URL of a corpus")
    parser.add_argument("--session", action="append", default=[], help="id; may be repeated")
    parser.add_argument(
        "--runs",
        action="append",
        default=[],
        metavar="FOLDER",
        help="of runs and exports to look through; may be repeated",
    )
    parser.add_argument(
        "--cache",
        action="append",
        default=[],
        metavar="FOLDER",
        help="data.cache of a run, to be cleared too; may be repeated (the default one always is)",
    )
    args = parser.parse_args()
    for folder in args.cache:
        if not Path(folder).is_dir():
            raise BadInput(f"--cache {folder}: no such folder; nothing was done")
    caches = [default_cache(), *map(default_cache, args.cache)]
    done = remove_sessions(args.corpus, args.session, caches, args.runs)
    for old, new in done.rewritten:
        log.say(f"shard {old}: {f'rewritten as {new}' if new else 'removed'}")
    log.say(
        f"{done.windows} windows of {len(args.session)} sessions are gone from {args.corpus}; "
        f"{done.cached} files from {len(caches)} caches; other hosts and users have their own"
    )
    for run in done.runs:
        log.say(f"has seen them: {run}")
    for run in done.unsure:
        log.say(f"may have seen them, as nobody wrote down what it or its parents saw: {run}")
    for place in done.named:
        log.warn(f"{args.corpus}/manifest.json still names them: {place}")
    if done.left:
        raise StoreFailed(
            f"{args.corpus}: the corpus is without them, but there remain {'; '.join(done.left)}; "
            f"once they may be deleted, run data_prep/remove.py {args.corpus} without --session"
        )


if __name__ == "__main__":
    log.run_program(main)

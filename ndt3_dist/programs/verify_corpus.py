"""Check every hash, count and window of a corpus; exit 1 where anything is wrong.

Example:
    python data_prep/verify.py corpora/mine
"""

import argparse

from ndt3_dist import log
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.verify import verify_corpus


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="folder or s3:// URL of a corpus")
    corpus = parser.parse_args().corpus
    with log.waiting(f"verifying {corpus}"):
        problems = verify_corpus(corpus)
    for problem in problems:
        log.say(problem)
    manifest = read_manifest(corpus)
    windows = sum(s.samples for s in manifest.shards)
    verdict = f"{len(problems)} problems" if problems else "sound"
    log.say(f"{corpus}: {len(manifest.shards)} shards, {windows} windows: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    log.run_program(main)

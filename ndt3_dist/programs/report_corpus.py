"""Write CORPUS/report.html, a page of what a corpus holds.

Totals, spikes and covariates of two windows, rates, silent and double channels, traces, rejected
windows, doubles.

Example:
    python data_prep/report.py corpora/mine
    python data_prep/report.py s3://lab/corpus --sessions 20
"""

import argparse

from ndt3_dist import log
from ndt3_dist.errors import BadInput
from ndt3_dist.pages.corpus_page import LOOKED, write_page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="folder or s3:// URL of a corpus")
    parser.add_argument(
        "--sessions",
        type=int,
        default=LOOKED,
        help=f"that are read, evenly over the corpus (default: {LOOKED})",
    )
    args = parser.parse_args()
    if args.sessions < 1:
        raise BadInput(f"--sessions {args.sessions}: expected at least 1")
    with log.waiting("drawing the report"):
        path = write_page(args.corpus, args.sessions)
    log.say(path)


if __name__ == "__main__":
    log.run_program(main)

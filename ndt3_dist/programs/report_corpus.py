"""Write CORPUS/report.html: rates, silent and double channels, traces, rejected windows, doubles.

Example:
    python data_prep/report.py corpora/mine
"""

import argparse

from ndt3_dist import log
from ndt3_dist.pages.corpus_page import write_page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="folder or s3:// URL of a corpus")
    corpus = parser.parse_args().corpus
    with log.waiting("drawing the report"):
        path = write_page(corpus)
    log.say(path)


if __name__ == "__main__":
    log.run_program(main)

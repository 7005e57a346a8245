"""`ndt3 report-corpus`, as ndt3_dist/programs/report_corpus.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.report_corpus import main

if __name__ == "__main__":
    log.run_program(main)

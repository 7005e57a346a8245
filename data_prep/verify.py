"""`ndt3 verify-corpus`, as ndt3_dist/programs/verify_corpus.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.verify_corpus import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 preprocess`, as ndt3_dist/programs/preprocess.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.preprocess import main

if __name__ == "__main__":
    log.run_program(main)

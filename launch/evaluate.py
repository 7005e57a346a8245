"""`ndt3 evaluate`, as ndt3_dist/programs/evaluate.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.evaluate import main

if __name__ == "__main__":
    log.run_program(main)

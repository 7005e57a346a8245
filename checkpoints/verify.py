"""`ndt3 verify-run`, as ndt3_dist/programs/verify_run.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.verify_run import main

if __name__ == "__main__":
    log.run_program(main)

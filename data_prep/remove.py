"""`ndt3 remove`, as ndt3_dist/programs/remove.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.remove import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 simulate`, as ndt3_dist/programs/simulate.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.simulate import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 curve`, as ndt3_dist/programs/tasks/curve.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.tasks.curve import main

if __name__ == "__main__":
    log.run_program(main)

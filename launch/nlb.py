"""`ndt3 nlb`, as ndt3_dist/programs/tasks/nlb.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.tasks.nlb import main

if __name__ == "__main__":
    log.run_program(main)

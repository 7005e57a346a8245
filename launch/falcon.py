"""`ndt3 falcon`, as ndt3_dist/programs/tasks/falcon.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.tasks.falcon import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 fmri`, as ndt3_dist/programs/tasks/fmri.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.tasks.fmri import main

if __name__ == "__main__":
    log.run_program(main)

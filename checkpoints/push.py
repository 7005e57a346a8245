"""`ndt3 push`, as ndt3_dist/programs/push.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.push import main

if __name__ == "__main__":
    log.run_program(main)

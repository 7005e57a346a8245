"""`ndt3 demo`, as ndt3_dist/programs/demo.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.demo import main

if __name__ == "__main__":
    log.run_program(main)

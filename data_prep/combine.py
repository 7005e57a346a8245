"""`ndt3 combine`, as ndt3_dist/programs/combine.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.combine import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 convert`, as ndt3_dist/programs/convert.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.convert import main

if __name__ == "__main__":
    log.run_program(main)

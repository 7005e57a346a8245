"""`ndt3 decode`, as ndt3_dist/programs/decode.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.decode import main

if __name__ == "__main__":
    log.run_program(main)

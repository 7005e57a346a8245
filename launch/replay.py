"""`ndt3 replay`, as ndt3_dist/programs/replay.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.replay import main

if __name__ == "__main__":
    log.run_program(main)

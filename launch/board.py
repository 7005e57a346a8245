"""`ndt3 board`, as ndt3_dist/programs/cluster/board.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.cluster.board import main

if __name__ == "__main__":
    log.run_program(main)

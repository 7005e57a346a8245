"""`ndt3 lineage`, as ndt3_dist/programs/lineage.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.lineage import main

if __name__ == "__main__":
    log.run_program(main)

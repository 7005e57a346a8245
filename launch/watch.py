"""`ndt3 watch`, as ndt3_dist/programs/cluster/watch.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.cluster.watch import main

if __name__ == "__main__":
    log.run_program(main)

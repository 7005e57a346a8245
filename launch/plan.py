"""`ndt3 plan`, as ndt3_dist/programs/cluster/plan.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.cluster.plan import main

if __name__ == "__main__":
    log.run_program(main)

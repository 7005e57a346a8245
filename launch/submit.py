"""`ndt3 submit`, as ndt3_dist/programs/cluster/submit.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.cluster.submit import main

if __name__ == "__main__":
    log.run_program(main)

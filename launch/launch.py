"""`ndt3 launch`, as ndt3_dist/programs/cluster/launch.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.cluster.launch import main

if __name__ == "__main__":
    log.run_program(main)

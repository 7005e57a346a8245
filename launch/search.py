"""`ndt3 search`, as ndt3_dist/programs/cluster/search.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.cluster.search import main

if __name__ == "__main__":
    log.run_program(main)

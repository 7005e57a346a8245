"""`ndt3 report`, as ndt3_dist/programs/report.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.report import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 finetune`, as ndt3_dist/programs/finetune.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.finetune import main

if __name__ == "__main__":
    log.run_program(main)

"""`ndt3 pretrain`, as ndt3_dist/programs/pretrain.py has it."""

from ndt3_dist import log
from ndt3_dist.engines.command import end_launcher
from ndt3_dist.programs.pretrain import main

if __name__ == "__main__":
    log.run_program(main, end_launcher)

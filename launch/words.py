"""`ndt3 words`, as ndt3_dist/programs/tasks/words.py has it."""

from ndt3_dist import log
from ndt3_dist.programs.tasks.words import main

if __name__ == "__main__":
    log.run_program(main)

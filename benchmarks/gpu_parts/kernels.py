"""tests/gpu but for the goldens: values, gradients, dropout, and that all repeats."""

import sys

import pytest

from ndt3_dist.config import PROJECT

ARGUMENTS = ["-v", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
FOLDER = PROJECT / "tests" / "gpu"

if __name__ == "__main__":
    goldens = FOLDER / "test_golden_bf16.py"
    sys.exit(pytest.main([*ARGUMENTS, str(FOLDER), f"--ignore={goldens}"]))

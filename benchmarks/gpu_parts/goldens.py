"""tests/gpu/test_golden_bf16.py, with the table that it prints."""

import sys

import pytest
from gpu_parts.kernels import ARGUMENTS, FOLDER

if __name__ == "__main__":
    sys.exit(pytest.main([*ARGUMENTS, "-s", str(FOLDER / "test_golden_bf16.py")]))

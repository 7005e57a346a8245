"""Compilers' helpers of this environment are found before others."""

import os
import sys
from pathlib import Path

from ndt3_dist.engines.compile_ops import find_tools


def test_this_interpreters_programs_come_first_and_once(monkeypatch):
    """Another ninja makes DeepSpeed compile its operator anew."""
    here = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", here]))
    for _ in range(2):
        find_tools()
        assert os.environ["PATH"] == os.pathsep.join([here, "/usr/bin", here])

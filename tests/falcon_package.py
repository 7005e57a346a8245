"""FALCON's own package, apart from the environment of the tests: kept for all that come later."""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

PINS = (
    "falcon-challenge==1.0.2",
    "edit_distance==1.0.9",
    "hydra-core==1.3.8",
    "omegaconf==2.4.0",
    "antlr4-python3-runtime==4.9.3",
)
"""Itself and what of its requirements the evaluator imports and is not here already."""


def falcon_package() -> Path:
    """A folder for PYTHONPATH; skips the test where pip cannot fetch the package."""
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    kept = os.environ.get("NDT3_TEST_CACHE") or Path.home() / ".cache" / "ndt3_dist"
    name = hashlib.sha256("\n".join(PINS).encode()).hexdigest()[:12]
    folder = Path(kept, f"falcon-{name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
            pip += ["--disable-pip-version-check", "--target", str(folder), *PINS]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"pip cannot fetch falcon-challenge: {done.stderr.strip()[-200:]}")
            (folder / "whole").touch()
    return folder

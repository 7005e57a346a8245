"""What every benchmark says of where it ran, and how fast the machine multiplies."""

import contextlib
import datetime
import itertools
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from ndt3_dist import storage
from ndt3_dist.config import PROJECT
from ndt3_dist.model.flops import device_name


def header(program: str) -> str:
    """Program, commit, date, processor or GPU, versions."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True
    ).stdout.strip()
    return (
        f"{program}  commit {commit or 'unknown'}\n{datetime.date.today()}, {machine()}, "
        f"python {platform.python_version()}, torch {torch.__version__}"
    )


def machine() -> str:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return f"{device_name(device)}, {len(os.sched_getaffinity(0))} cores"


def matmul_rate(dtype: torch.dtype, device: str = "cpu", size: int = 2048) -> float:
    """Best rate of a square matrix product in FLOP/s, of ten."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        _ = a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def new_result(name: str, folder: Path) -> Path:
    """An empty file FOLDER/NAME_DATE.txt, or NAME_DATE_2.txt and so on: no other is touched."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        more = f"_{number}" if number > 1 else ""
        path = folder / f"{name}_{datetime.date.today()}{more}.txt"
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
    raise AssertionError


def save(name: str, text: str) -> Path:
    """Keep a result as benchmarks/results/NAME_DATE.txt."""
    path = PROJECT / "benchmarks" / "results" / f"{name}_{datetime.date.today()}.txt"
    storage.write_bytes(path, text.encode())
    return path.relative_to(PROJECT)

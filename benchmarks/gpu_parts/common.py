"""What the parts of benchmarks/gpu.py share: their arguments, models, steps, clocks and tables."""

import argparse
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hardware import matmul_rate

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.model.flops import peak_bf16
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train.pretrain_config import PretrainConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = {"350M": "big_350m_2kh", "45M": "base_45m_200h"}
"""Shipped configs by their size."""
TINY = ["model.layers=1", "model.dim=128", "model.heads=2", "model.feedforward=128"]


@dataclass(frozen=True)
class Box:
    """How a part is run.

    Attributes:
        work: Folder of this run of the benchmark, for all its parts.
        short: Tiny models, few steps.
        ends: When it is killed, by `time.monotonic`.
    """

    work: Path
    short: bool
    ends: float

    @property
    def sizes(self) -> list[str]:
        """Of the models to measure; where they are tiny one is enough."""
        return list(SIZES)[self.short :]

    def has(self, seconds: float) -> bool:
        """Whether so much time is left; a short form always begins what it has to do."""
        return self.short or time.monotonic() + seconds < self.ends


def read_box(doc: str | None) -> Box:
    """From the command line of a part."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    return Box(args.work, args.short, time.monotonic() + args.seconds)


class Table:
    """A table whose rows are said as they come: a part that is cut short leaves those it had."""

    def __init__(self, header: str):
        """Columns begin where their names do; two spaces lie between names."""
        self.begins = [found.start() for found in re.finditer(r"\S+( \S+)*", header)]
        log.say(header)

    def add(self, *cells: object) -> None:
        line = ""
        for begin, cell in zip(self.begins, cells, strict=False):
            line = f"{line + '  ' if line else '':<{begin}}{cell}"
        log.say(line)


def config_of(size: str, short: bool) -> PretrainConfig:
    """The shipped config of a size; in the short form its model is tiny."""
    return load_config(
        PretrainConfig, find_file(f"{SIZES[size]}.yaml", "configs"), TINY if short else []
    )


def training_step(
    model: NDT3, config: PretrainConfig, arrays: dict[str, np.ndarray]
) -> Callable[[], None]:
    """Forward, backward, clipping and AdamW on fp32 masters, in bf16, of windows on the device."""
    optimizer = PlainOptimizer(model, config.optim, "bf16")
    tokens = PackedTokens.from_numpy(arrays, DEVICE)
    counts = int(arrays["spike_channels"].sum()), int(arrays["covariate_valid"].sum())

    def step() -> None:
        model(tokens, *counts).loss.backward()
        optimizer.step(config.optim.lr)

    return step


def wait() -> None:
    """For all that the GPU was told."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after two that warm up."""
    found = []
    for number in range(repeats + 2):
        wait()
        began = time.perf_counter()
        call()
        wait()
        if number >= 2:
            found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]


def measure(step: Callable[[], object], repeats: int = 8) -> tuple[float, str]:
    """Seconds of a step, and most GiB that were allocated; on a CPU of one step, without these."""
    if DEVICE == "cpu":
        return seconds_of(step, 1), "-"
    torch.cuda.reset_peak_memory_stats()
    took = seconds_of(step, repeats)
    return took, f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"


def release() -> None:
    """Give back what the last model held, so that the next has it."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def peak() -> float:
    """FLOP/s that MFU is over, said: the data sheet's, or what products reach."""
    rate = matmul_rate(torch.bfloat16, DEVICE, 512 if DEVICE == "cpu" else 8192)
    sheet = peak_bf16(torch.cuda.get_device_name()) if DEVICE == "cuda" else None
    basis = f"{sheet / 1e12:.0f} TFLOP/s of the data sheet" if sheet else "that rate"
    log.say(f"bf16 matrix products {rate / 1e12:.1f} TFLOP/s; MFU and HFU over {basis}")
    return sheet or rate

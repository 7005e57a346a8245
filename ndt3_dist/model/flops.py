"""Floating-point operations of a training step, and what devices can do: for MFU and HFU.

Only matrix products count (2 operations per multiply-add), attention over what a token sees alone.
A backward pass costs two forward passes; recomputing activations costs one more of the blocks,
which HFU counts and MFU does not.
"""

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ndt3_dist.model.model_config import ModelConfig

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """What a GPU can do.

    Attributes:
        device: Pattern of what its driver calls it, `-` as a blank.
        flops: Dense bf16 operations a second.
        memory: Bytes that CUDA shows; a driver may leave a per cent less.
        bandwidth: Bytes a second from and to its memory.
        link: Bytes a second to other GPUs of its host, each way.
    """

    device: str
    flops: float
    memory: int
    bandwidth: float
    link: float


PCIE = 25e9
"""Bytes a second of 16 lanes of the fourth generation, each way, as they are reached."""
CARDS = {
    "b200": Card("B200", 2250e12, round(178.3 * GIB), 8.0e12, 900e9),
    "h200": Card("H200", 989e12, round(139.8 * GIB), 4.8e12, 450e9),
    "h100-nvl": Card("H100 NVL", 835e12, round(93.1 * GIB), 3.9e12, PCIE),
    "h100-pcie": Card("H100 PCIe", 756e12, round(79.1 * GIB), 2.0e12, PCIE),
    "h100": Card("H100", 989e12, round(79.1 * GIB), 3.35e12, 450e9),
    "a100-80gb": Card("A100.* 80GB", 312e12, round(79.1 * GIB), 2.039e12, 300e9),
    "a100-40gb": Card("A100", 312e12, round(39.4 * GIB), 1.555e12, 300e9),
    "l40s": Card("L40S", 362e12, round(44.4 * GIB), 0.864e12, PCIE),
    "a40": Card("A40", 149.7e12, round(44.4 * GIB), 0.696e12, PCIE),
    "a10g": Card("A10G", 70e12, round(22.0 * GIB), 0.6e12, PCIE),
    "a10": Card("A10", 125e12, round(22.0 * GIB), 0.6e12, PCIE),
    "rtx-a6000": Card("RTX A6000", 154.8e12, round(47.5 * GIB), 0.768e12, PCIE),
    "rtx-4090": Card("RTX 4090", 165.2e12, round(23.6 * GIB), 1.008e12, PCIE),
    "rtx-3090": Card("RTX 3090", 71e12, round(23.6 * GIB), 0.936e12, PCIE),
}
"""By name, the more specific first. Source: NVIDIA's data sheets (half of a figure given with
sparsity; fp32 accumulation for GeForce; SXM forms where nothing else is said)."""


def peak_bf16(device_name: str) -> float | None:
    """Peak dense bf16 FLOP/s of a device; None where it is not in the table."""
    words = device_name.replace("-", " ")
    found = (c.flops for c in CARDS.values() if re.search(rf"\b{c.device}\b", words))
    return next(found, None)


def device_name(device: torch.device) -> str:
    """What a GPU or this machine's processor is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return name if "CPU" in name or "Processor" in name else f"{name} CPU"


def block_flops(config: ModelConfig, seqlens: Sequence[int]) -> int:
    """Forward operations of all blocks over segments of these lengths."""
    dim, tokens = config.dim, sum(seqlens)
    linear = 2 * tokens * (4 * dim * dim + 3 * dim * config.feedforward)
    # Of each pair a dot product and a weighted value, over all heads.
    attention = sum(2 * n * reach(config, n) * dim for n in seqlens)
    return config.layers * (linear + attention)


def reach(config: ModelConfig, length):
    """Twice the tokens that one sees in a segment of so many, on average."""
    return 2 * length if config.objective == "masked" else length + 1


def head_flops(config: ModelConfig, spike_tokens: int, covariate_tokens: int) -> int:
    """Forward operations of the two output heads."""
    classes = config.channels_per_token * config.count_classes
    return 2 * config.dim * (spike_tokens * classes + covariate_tokens)


def step_flops(
    config: ModelConfig,
    seqlens: Sequence[int],
    spike_tokens: int,
    covariate_tokens: int,
    recompute: bool = False,
) -> tuple[int, int]:
    """Operations of forward and backward: those the model needs (MFU), those that run (HFU)."""
    blocks = block_flops(config, seqlens)
    needed = 3 * (blocks + head_flops(config, spike_tokens, covariate_tokens))
    return needed, needed + blocks * recompute

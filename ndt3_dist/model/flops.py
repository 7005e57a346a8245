"""Floating-point operations of a training step, and what devices can do: for MFU and HFU.

Only matrix products count (2 operations per multiply-add), attention over the causal half alone. A
backward pass costs two forward passes; recomputing activations costs one more of the blocks, which
HFU counts and MFU does not.
"""

import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ndt3_dist.model.model_config import ModelConfig

PEAK_BF16 = {
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 FLOP/s by a part of the device's name, the more specific first. Source: NVIDIA's data
sheets (half of a figure given with sparsity; fp32 accumulation for GeForce)."""


def peak_bf16(device_name: str) -> float | None:
    """Peak dense bf16 FLOP/s of a device; None where it is not in the table."""
    words = device_name.replace("-", " ")
    found = (rate for part, rate in PEAK_BF16.items() if re.search(rf"\b{part}\b", words))
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
    # Each of n (n + 1) / 2 pairs: a dot product and a weighted value, over all heads.
    attention = sum(2 * n * (n + 1) * dim for n in seqlens)
    return config.layers * (linear + attention)


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

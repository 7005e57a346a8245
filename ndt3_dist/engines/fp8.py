"""Matrix products of blocks in 8-bit floats, by torchao: `train.fp8`, which is off by default.

Inputs, weights and gradients are scaled and rounded for each product; weights, masters, sums of
gradients and heads stay as they are, and so do names in checkpoints.
"""

import logging
from dataclasses import replace
from typing import Any

import torch

from ndt3_dist.errors import BadInput, Unsupported

LEAST = 8, 9
"""Compute capability (Ada, Hopper) that has such products; a CPU imitates them, slowly."""


def use_fp8(model: Any, recipe: str, device: torch.device) -> None:
    """Let the linear layers of a model's blocks multiply in 8 bits.

    Args:
        recipe: tensorwise (one scale a tensor) or rowwise (one a row: more exact, slower).
    Raises:
        Unsupported: The GPU has no such products, or torchao is not installed.
        BadInput: The model has no `blocks`.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST:
        raise Unsupported(
            f"train.fp8 is {recipe}, which needs a GPU of compute capability 8.9 (Ada, Hopper) or "
            f"newer; {torch.cuda.get_device_name(device)} is older: use train.fp8=off"
        )
    if not isinstance(getattr(model, "blocks", None), torch.nn.ModuleList):
        raise BadInput(f"train.fp8: {type(model).__name__} has no blocks to use it in; use off")
    logging.disable(logging.ERROR)  # of kernels of other GPUs that it cannot load
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as e:
        raise Unsupported(f"train.fp8 needs torchao: pip install 'ndt3_dist[fp8]' ({e})") from e
    finally:
        logging.disable(logging.NOTSET)
    # Products need sizes that are multiples of 16; tokens of a micro-batch are any number.
    changes = {"emulate": device.type != "cuda", "pad_inner_dim": True}
    how: Any = replace(Float8LinearConfig.from_recipe_name(recipe), **changes)
    convert_to_float8_training(model.blocks, config=how)

"""Low-rank fine-tuning: frozen attention weights plus a trained product of two thin matrices.

Written on `torch.nn.utils.parametrize`, under which the model's code and its other names stay as
they are. An export holds the sum, so that it loads like any other.

Source: Hu et al. 2021; which weights, rank and alpha: joel99/ndt3 at 472466a.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

from ndt3_dist.model.linear import product_dtype
from ndt3_dist.model.ndt3 import NDT3

ORIGINAL = ".parametrizations.weight.original"
LOW_RANK = ".parametrizations.weight.0."


def low_rank_sum(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """weight (rows, columns) + scale * b (rows, rank) @ a (rank, columns)."""
    dtype = product_dtype(b)
    return weight + scale * (b.to(dtype) @ a.to(dtype)).to(b.dtype)


class LowRank(nn.Module):
    """The trained update of one weight; zero at first."""

    def __init__(self, rows: int, columns: int, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, columns))
        self.b = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return low_rank_sum(weight, self.a, self.b, self.scale)


def add_low_rank(model: NDT3, rank: int, alpha: float) -> set[str]:
    """Freeze the backbone and give each block's qkv weight an update; names of its parameters."""
    before = {name for name, _ in model.named_parameters()}
    model.blocks.requires_grad_(False)
    for name, module in list(model.blocks.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith("attention.qkv"):
            update = LowRank(module.out_features, module.in_features, rank, alpha / rank)
            parametrize.register_parametrization(module, "weight", update)
    after = {name for name, _ in model.named_parameters()}
    return {name for name in after - before if not name.endswith(ORIGINAL)}


def merge(weights: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Weights under the model's own names, updates added; without updates as they are."""
    merged = {}
    for name, weight in weights.items():
        if name.endswith(ORIGINAL):
            stem = name.removesuffix(ORIGINAL)
            a, b = weights[stem + LOW_RANK + "a"], weights[stem + LOW_RANK + "b"]
            merged[stem + ".weight"] = low_rank_sum(weight, a, b, scale)
        elif LOW_RANK not in name:
            merged[name] = weight
    return merged

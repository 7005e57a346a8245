"""Matrix products in the type that the machine is fast at.

A CPU without bf16 instructions (those before AVX-512) multiplies bf16 matrices a hundred times
slower than float32 ones. There products are taken in float32 and rounded to bf16, which is what
such instructions do: they too sum in float32.
"""

import torch
import torch.nn.functional as F
from torch import nn

CPU_HAS_BF16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The type to multiply `x` in: its own, or float32 for bf16 where that is slow."""
    slow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not CPU_HAS_BF16
    return torch.float32 if slow else x.dtype


class Linear(nn.Linear):
    """torch's, with its product taken in `product_dtype`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = product_dtype(x)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.linear(x.to(dtype), weight, bias).to(x.dtype)

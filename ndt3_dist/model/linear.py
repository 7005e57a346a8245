"""Matrix products in the type that the machine is fast at.

A CPU without bf16 instructions (those before AVX-512) multiplies bf16 matrices a hundred times
slower than float32 ones. There products are taken in float32 and rounded to bf16, which is what
such instructions do: they too sum in float32.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ndt3_dist.errors import Unsupported

CPU_HAS_BF16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
Product = Callable[[torch.Tensor], torch.Tensor]
"""(rows, in) to (rows, out), of one type."""


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


def prepared(layer: nn.Linear, kind: str, rows: int) -> Product:
    """A layer's product with few rows, its weights laid out for that once: a copy of them.

    Args:
        kind: fp32, bf16 or int8: weights of 8 bits with a scale for each output, and inputs that
            are rounded to 8 bits with one scale as they come.
        rows: That will mostly be multiplied.
    Returns:
        Takes and gives float32, or bf16 for that.
    """
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if kind == "int8":
        return in_8_bits(weight, bias)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    weight, bias = weight.to(dtype), bias.to(dtype)
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return lambda x: F.linear(x, weight, bias)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, laid_out, bias, "none", [], "")


def in_8_bits(weight: torch.Tensor, bias: torch.Tensor) -> Product:
    """`prepared` in int8. Raises Unsupported on a GPU."""
    if weight.device.type != "cpu":
        raise Unsupported("int8 is for CPUs; a GPU decodes in bf16")
    weight = weight.float()
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():  # what makes such tensors is to go with a later torch
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor")
        of_8_bits = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(of_8_bits, bias.float())
    # Without such instructions sums of products of 8 bits overflow 16: inputs then have 7.
    seven = not torch.cpu._is_vnni_supported()
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, seven)

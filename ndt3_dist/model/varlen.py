"""Causal attention of packed rows by the flash kernels that torch brings: no package to build.

`torch.nn.attention.varlen` offers them without dropout, and their backward pass adds in any order
unless the whole process is told not to. So the operators below it are called here.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable


class Varlen(torch.autograd.Function):
    """Attention of (tokens, heads, head_dim) in bf16 or fp16, segments between `cu_seqlens`."""

    @staticmethod
    def forward(ctx, q, k, v, cu_seqlens: torch.Tensor, longest: int, dropout: float):
        kept = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_seqlens, cu_seqlens, longest, longest, dropout, True, False
        )
        output, log_sums, *random, _ = kept
        ctx.save_for_backward(q, k, v, output, log_sums, cu_seqlens, *random)
        ctx.longest, ctx.dropout = longest, dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        q, k, v, output, log_sums, cu, *random = ctx.saved_tensors
        lengths = ctx.longest, ctx.longest, ctx.dropout, True
        with fixed_order():
            grads = torch.ops.aten._flash_attention_backward(
                grad, q, k, v, output, log_sums, cu, cu, *lengths, *random
            )
        return *grads, None, None, None


@contextlib.contextmanager
def fixed_order() -> Iterator[None]:
    """Operators called inside add in a fixed order, or refuse."""
    settings: Any = torch.utils.deterministic
    was = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        settings.fill_uninitialized_memory = fills

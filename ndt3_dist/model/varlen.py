"""Attention of packed rows, causal or not, by the flash kernels that torch brings.

`torch.nn.attention.varlen` offers them without dropout, and their backward pass adds in any order
unless the whole process is told not to. So the operators below it are called here: as they are in
eager steps, and in compiled ones as two operators of ours, `ndt3_dist::varlen` and its backward,
whose insides the compiler does not trace. An operator costs 30 us of the host's time a block and
step more than a Function does, so that eager steps keep the latter.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def varlen(
    q, k, v, cu_seqlens, longest: int, dropout: float, fixed: bool, causal: bool
) -> torch.Tensor:
    """Attention of (tokens, heads, head_dim) in bf16 or fp16, segments between `cu_seqlens`.

    Args:
        longest: Tokens of the longest segment, or more.
        fixed: Whether the backward pass adds in a fixed order.
        causal: As in `attention.attend`.
    """
    arguments: Any = q, k, v, cu_seqlens, longest, dropout, fixed, causal
    if torch.compiler.is_compiling():
        return varlen_op(*arguments)[0]
    return Varlen.apply(*arguments)  # pyright: ignore[reportReturnType]


def forward(q, k, v, cu_seqlens, longest: int, dropout: float, causal: bool):
    """Output, logarithms of the sums of weights, and what dropout's random numbers follow from."""
    *kept, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens, cu_seqlens, longest, longest, dropout, causal, False
    )
    return tuple(kept)


def backward(grad, kept, longest: int, dropout: float, fixed: bool, causal: bool) -> Tensors:
    """Gradients of queries, keys and values; `kept`: q, k, v, cu_seqlens and all of `forward`."""
    q, k, v, cu, output, log_sums, *random = kept
    lengths = longest, longest, dropout, causal
    with fixed_order() if fixed else contextlib.nullcontext():
        return torch.ops.aten._flash_attention_backward(
            grad, q, k, v, output, log_sums, cu, cu, *lengths, *random
        )


def keep(ctx, inputs, output) -> None:
    """What the backward pass needs, of `varlen_op` and of `Varlen` alike."""
    q, k, v, cu_seqlens, *ctx.how = inputs
    ctx.save_for_backward(q, k, v, cu_seqlens, *output)


class Varlen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        output = forward(*inputs[:6], causal=inputs[-1])
        keep(ctx, inputs, output)
        return output[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        return *backward(grad, ctx.saved_tensors, *ctx.how), *[None] * 5


@torch.library.custom_op("ndt3_dist::varlen", mutates_args=())
def varlen_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    longest: int,
    dropout: float,
    fixed: bool,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return forward(q, k, v, cu_seqlens, longest, dropout, causal)


@torch.library.custom_op("ndt3_dist::varlen_backward", mutates_args=())
def varlen_backward_op(
    grad: torch.Tensor,
    kept: list[torch.Tensor],
    longest: int,
    dropout: float,
    fixed: bool,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return backward(grad, kept, longest, dropout, fixed, causal)


@varlen_op.register_fake
def _(q, k, v, cu_seqlens, longest, dropout, fixed, causal):
    return forward(q, k, v, cu_seqlens, longest, dropout, causal)


@varlen_backward_op.register_fake
def _(grad, kept, longest, dropout, fixed, causal):
    return tuple(torch.empty_like(x) for x in kept[:3])


def _backward_op(ctx, grad, *unused):
    grads = varlen_backward_op(grad, list(ctx.saved_tensors), *ctx.how)
    return *grads, *[None] * 5


varlen_op.register_autograd(_backward_op, setup_context=keep)


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

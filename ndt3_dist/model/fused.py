"""The operations between matrix products, each as one kernel forward and one backward.

On CUDA devices in bf16 (`is_used`), and on torch's meta device, which stands for one that has no
memory; elsewhere, and under torch.compile, `model.ndt3` uses torch's own operations, which say what
is computed. What a token gets depends on no other token of its
call, and sums over tokens are made in a fixed order.
"""

import importlib.util
from typing import Any

import torch
from torch.autograd.function import once_differentiable

EPS = 1e-5
PROGRAMS = 1056
"""That share the tokens where a weight's gradient is summed: 8 for each of an H100's processors."""
HAS_TRITON = importlib.util.find_spec("triton") is not None


def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a model with weights of a type on a device can run on these kernels."""
    on_a_gpu = device.type == "meta" or (device.type == "cuda" and HAS_TRITON)
    return on_a_gpu and dtype == torch.bfloat16


def is_used(weight: torch.Tensor) -> bool:
    """Whether a model with such weights runs on these kernels now."""
    return runs_on(weight.device, weight.dtype) and not torch.compiler.is_compiling()


def add_norm(h, residual, dropout: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """residual + dropout(h), float32, and its layer norm without weights, of type `dtype`.

    Args:
        h: (tokens, dim), of any type.
        residual: (tokens, dim) float32.
    """
    found: Any = _AddNorm.apply(h, residual, dropout, dtype)
    return found


def norm_rotate(qkv, q_weight, k_weight, cos, sin):
    """Queries and keys, normed over the head dimension and rotated, and values.

    Args:
        qkv: (tokens, 3, heads, head_dim).
        q_weight, k_weight: Of the norms, (head_dim,).
        cos, sin: (tokens, 1, head_dim / 2) float32.
    Returns:
        Three of (tokens, heads, head_dim).
    """
    found: Any = _NormRotate.apply(qkv, q_weight, k_weight, cos, sin)
    return found


def swiglu(up_gate: torch.Tensor) -> torch.Tensor:
    """up * silu(gate) of [up | gate], (tokens, 2 * feedforward) -> (tokens, feedforward)."""
    found: Any = _SwiGLU.apply(up_gate)
    return found


def spike_losses(logits, counts, channels, targets) -> torch.Tensor:
    """`losses.spike_losses`; of all that it computes, only the losses are written."""
    found: Any = _SpikeLosses.apply(logits, counts, channels, targets)
    return found


def power_of_two(number: int) -> int:
    """The lowest that is not below."""
    return 1 << (number - 1).bit_length()


def launch(name: str, grid: tuple[int, ...], elements: int, *arguments) -> None:
    """Run a kernel whose programs hold tiles of so many elements: 8 of each to a thread."""
    if any(isinstance(a, torch.Tensor) and a.is_meta for a in arguments):
        return
    from ndt3_dist.model import kernels

    kernel: Any = getattr(kernels, name)
    kernel[grid](*arguments, num_warps=min(max(elements // 256, 1), 16))


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, residual, dropout: float, dtype: torch.dtype):
        h = h.contiguous()
        (tokens, width), device = h.shape, h.device
        seed = torch.randint(1 << 31, (2,), device=device) if dropout else h.new_empty(0)
        total = torch.empty(tokens, width, device=device)
        normed = torch.empty(tokens, width, device=device, dtype=dtype)
        mean, rstd = torch.empty(2, tokens, device=device)
        ctx.drops = round(dropout * 2**32), 1 / (1 - dropout)
        ctx.tile = width, power_of_two(width)
        sizes = *ctx.drops, EPS, *ctx.tile, dropout > 0
        tensors = h, residual, seed, total, normed, mean, rstd
        launch("add_norm_forward", (tokens,), ctx.tile[1], *tensors, *sizes)
        ctx.save_for_backward(seed, total, mean, rstd)
        ctx.kind = h.dtype
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total, d_normed):
        seed, *kept = ctx.saved_tensors
        total, adds = kept[0], d_total is not None
        if d_normed is None:  # nothing came of the norm
            d_normed = torch.zeros_like(total, dtype=ctx.kind)
        d_total = d_total.contiguous() if adds else total  # where it adds none, it is not read
        d_h, d_residual = torch.empty_like(total, dtype=ctx.kind), torch.empty_like(total)
        tensors = d_total, d_normed.contiguous(), seed, *kept, d_h, d_residual
        sizes = *ctx.drops, *ctx.tile, adds, len(seed) > 0
        launch("add_norm_backward", (len(total),), ctx.tile[1], *tensors, *sizes)
        return d_h, d_residual, None, None


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, q_weight, k_weight, cos, sin):
        tokens, _, heads, width = qkv.shape
        half = width // 2
        ctx.tile = heads, half, power_of_two(2 * heads), power_of_two(half)
        ctx.elements = ctx.tile[2] * ctx.tile[3]
        out = qkv.new_empty(tokens, 2, heads, width)
        tensors = qkv, q_weight, k_weight, cos, sin
        launch("norm_rotate_forward", (tokens,), ctx.elements, *tensors, out, EPS, *ctx.tile)
        ctx.save_for_backward(*tensors)
        return out[:, 0], out[:, 1], qkv[:, 2]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_q, d_k, d_v):
        saved = ctx.saved_tensors  # read once: where activations are recomputed, twice is an error
        qkv, q_weight = saved[:2]
        tokens, programs = len(qkv), min(len(qkv), PROGRAMS)
        grads = d_q.contiguous(), d_k.contiguous(), d_v.contiguous()
        d_qkv = torch.empty_like(qkv)
        d_weights = torch.empty(programs, 2, qkv.shape[3], device=qkv.device)
        tensors = *saved, *grads, d_qkv, d_weights
        sizes = tokens, EPS, *ctx.tile
        launch("norm_rotate_backward", (programs,), ctx.elements, *tensors, *sizes)
        of_q, of_k = d_weights.sum(0).to(q_weight.dtype)
        return d_qkv, of_q, of_k, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, up_gate):
        tokens, width = up_gate.shape[0], up_gate.shape[1] // 2
        block = min(power_of_two(width), 2048)
        ctx.save_for_backward(up_gate)
        ctx.grid, ctx.tile = (tokens, -(-width // block)), (width, block)
        out = up_gate.new_empty(tokens, width)
        launch("swiglu_forward", ctx.grid, block, up_gate, out, *ctx.tile)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        (up_gate,) = ctx.saved_tensors
        d_up_gate = torch.empty_like(up_gate)
        tensors = up_gate, d_out.contiguous(), d_up_gate
        launch("swiglu_backward", ctx.grid, ctx.tile[1], *tensors, *ctx.tile)
        return d_up_gate


class _SpikeLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, counts, channels, targets):
        sizes = logits.shape[1:]
        ctx.tile = *sizes, *map(power_of_two, sizes)
        ctx.elements = ctx.tile[2] * ctx.tile[3]
        tensors = logits.contiguous(), counts, channels, targets
        losses = torch.empty(len(logits), device=logits.device)
        launch("spike_loss_forward", (len(logits),), ctx.elements, *tensors, losses, *ctx.tile)
        ctx.save_for_backward(*tensors)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, d_losses):
        tensors = *ctx.saved_tensors, d_losses.contiguous()
        d_logits = torch.empty_like(tensors[0])
        grid = (len(d_losses),)
        launch("spike_loss_backward", grid, ctx.elements, *tensors, d_logits, *ctx.tile)
        return d_logits, None, None, None

"""Causal attention over packed segments: one function, four bodies with one signature.

Segments (windows) never see each other. Which body runs is decided once, by `choose_body`, and
said once by the caller; nothing falls back silently.
"""

import importlib.util
from itertools import groupby

import torch
import torch.nn.functional as F

from ndt3_dist.errors import Unsupported
from ndt3_dist.model.blocked import blocked


def choose_body(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """The attention body for a device: flash, sdpa or reference.

    Args:
        wanted: auto, flash, sdpa, blocked or reference (`model.attention`).
        device: Where the model runs.
        dtype: Of its weights; flash-attn computes in bf16 or fp16 alone.
    Raises:
        Unsupported: flash was asked for and cannot run here.
    """
    has_flash = importlib.util.find_spec("flash_attn") is not None
    has_flash = has_flash and device.type == "cuda" and dtype != torch.float32
    if wanted == "flash" and not has_flash:
        raise Unsupported(
            "model.attention is flash, which needs flash-attn installed, a CUDA device and bf16 "
            f"(found {device.type}, {dtype}); use model.attention=auto or sdpa"
        )
    if wanted == "auto":
        if device.type == "cpu":
            return "blocked"
        return "flash" if has_flash else "sdpa"
    return wanted


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    seqlens: list[int],
    dropout: float,
    body: str,
) -> torch.Tensor:
    """Causal softmax attention inside each segment, scaled by 1/sqrt(head_dim).

    Args:
        q, k, v: (tokens, heads, head_dim).
        cu_seqlens: Segment borders, (segments + 1,) int32, on the device.
        seqlens: Segment lengths, the same as differences of `cu_seqlens`, on the host.
        dropout: Probability of dropping an attention weight.
        body: flash, sdpa, blocked or reference, from `choose_body`.
    Returns:
        (tokens, heads, head_dim).
    """
    if body == "flash":
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

        longest = max(seqlens)
        return flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens,
            cu_seqlens,
            longest,
            longest,
            dropout_p=dropout,
            causal=True,
            deterministic=True,  # its default backward adds in any order
        )
    one = {"sdpa": _sdpa, "blocked": blocked, "reference": _reference}[body]
    outputs, start = [], 0
    # Neighbours of one length share a call; a row is sorted by length where it can be.
    for length, run in groupby(seqlens):
        segments = len(list(run))
        stop = start + segments * length
        shape = (segments, length, *q.shape[1:])
        # (segments, heads, length, head_dim)
        q1, k1, v1 = (x[start:stop].reshape(shape).transpose(1, 2) for x in (q, k, v))
        outputs.append(one(q1, k1, v1, dropout).transpose(1, 2).reshape(stop - start, *q.shape[1:]))
        start = stop
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    """Attention as the formula has it, in float32 at least."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return (F.dropout(weights, dropout) @ v.to(dtype)).to(q.dtype)

"""Attention over packed segments, causal or not: one function, six bodies with one signature.

Segments (windows) never see each other. Which body runs is decided once, by `choose_body`, and
said once by the caller; nothing falls back silently.
"""

import importlib.util
from itertools import groupby

import torch
import torch.nn.functional as F

from ndt3_dist.errors import Unsupported
from ndt3_dist.model.blocked import blocked
from ndt3_dist.model.varlen import varlen

FLASH = {
    "flash3": "FlashAttention 3 installed, Hopper (H100, H200), model.attention_dropout 0",
    "flash": "flash-attn installed",
    "varlen": "a torch built with flash attention",
}
"""Bodies on flash kernels, the first choice first, and what each needs beside the device."""
PACKAGES = {"flash3": "flash_attn_interface", "flash": "flash_attn"}
LOOPS = {"sdpa", "blocked", "reference"}
"""Bodies that call a function for each run of segments: no part of a compiled graph."""


def choose_body(wanted: str, device: torch.device, dtype: torch.dtype, dropout: float = 0.0) -> str:
    """The attention body for a device.

    Args:
        wanted: auto, flash3, flash, varlen, sdpa, blocked or reference (`model.attention`).
        device: Where the model runs.
        dtype: Of its weights; flash kernels compute in bf16 or fp16 alone.
        dropout: Of attention weights in training, which FlashAttention 3 does not have.
    Returns:
        flash3, flash, varlen, sdpa, blocked or reference.
    Raises:
        Unsupported: flash3, flash or varlen was asked for and cannot run here.
    """
    if wanted not in ("auto", *FLASH):
        return wanted
    if device.type == "cpu" and wanted == "auto":
        return "blocked"
    found = [body for body in FLASH if runs_flash(body, device, dtype, dropout)]
    if wanted in FLASH and wanted not in found:
        raise Unsupported(
            f"model.attention is {wanted}, which needs {FLASH[wanted]}, a CUDA device of Ampere or "
            f"newer and bf16 (found {device.type}, {dtype}); use model.attention=auto or sdpa"
        )
    return wanted if wanted in FLASH else [*found, "sdpa"][0]


def runs_flash(body: str, device: torch.device, dtype: torch.dtype, dropout: float) -> bool:
    """Whether a flash body runs on a device in a type; meta stands for a GPU without packages."""
    if device.type == "meta":
        return body == "varlen" and dtype != torch.float32
    if device.type != "cuda" or dtype == torch.float32:
        return False
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0) or (body == "flash3" and (capability[0] != 9 or dropout)):
        return False
    if body in PACKAGES:
        return importlib.util.find_spec(PACKAGES[body]) is not None
    return torch.backends.cuda.is_flash_attention_available()


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    seqlens: list[int],
    dropout: float,
    body: str,
    longest: int | None = None,
    fixed: bool = True,
    causal: bool = True,
) -> torch.Tensor:
    """Softmax attention inside each segment, scaled by 1/sqrt(head_dim).

    Args:
        q, k, v: (tokens, heads, head_dim).
        cu_seqlens: Segment borders, (segments + 1,) int32, on the device.
        seqlens: Segment lengths, the same as differences of `cu_seqlens`, on the host.
        dropout: Probability of dropping an attention weight.
        body: From `choose_body`.
        longest: Tokens of the longest segment, or more; None = of `seqlens`.
        fixed: Whether flash kernels' backward passes add in a fixed order.
        causal: Whether a token sees those up to itself alone; else all of its segment.
    Returns:
        (tokens, heads, head_dim).
    """
    if body in FLASH:
        longest = max(seqlens) if longest is None else longest
        if body == "varlen":
            return varlen(q, k, v, cu_seqlens, longest, dropout, fixed, causal)
        return _package(body, q, k, v, cu_seqlens, longest, dropout, fixed, causal)
    one = {"sdpa": _sdpa, "blocked": blocked, "reference": _reference}[body]
    outputs, start = [], 0
    # Neighbours of one length share a call; a row is sorted by length where it can be.
    for length, run in groupby(seqlens):
        segments = len(list(run))
        if not length:  # of padding
            continue
        stop = start + segments * length
        shape = (segments, length, *q.shape[1:])
        # (segments, heads, length, head_dim)
        q1, k1, v1 = (x[start:stop].reshape(shape).transpose(1, 2) for x in (q, k, v))
        mixed = one(q1, k1, v1, dropout, causal)
        outputs.append(mixed.transpose(1, 2).reshape(stop - start, *q.shape[1:]))
        start = stop
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _package(
    body: str, q, k, v, cu, longest: int, dropout: float, fixed: bool, causal: bool
) -> torch.Tensor:
    """FlashAttention 2 or 3, which bring operators of their own that torch.compile traces."""
    lengths = cu, cu, longest, longest
    if body == "flash":
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

        call, options = flash_attn_varlen_func, {"dropout_p": dropout}
    else:
        import flash_attn_interface  # pyright: ignore[reportMissingImports]

        call, options = flash_attn_interface.flash_attn_varlen_func, {}
    # Their default backward passes add in any order.
    found = call(q, k, v, *lengths, causal=causal, deterministic=fixed, **options)
    return found[0] if isinstance(found, tuple) else found  # versions of the third gave two


def _sdpa(q, k, v, dropout: float, causal: bool) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)


def _reference(q, k, v, dropout: float, causal: bool) -> torch.Tensor:
    """Attention as the formula has it, in float32 at least."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout) @ v.to(dtype)).to(q.dtype)

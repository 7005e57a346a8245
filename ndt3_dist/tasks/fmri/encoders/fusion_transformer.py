"""VIBE's encoder: streams are fused within each sample, then a transformer looks over time.

Every stream and the subject are a token of a small transformer within a sample; its outputs side by
side are the token of a wide one over time, with rotary positions and no causal mask. There is no
model of the haemodynamic delay: attention learns it.

Source: Bicanski-NCG/VIBE at a1d6286 (specs/algonauts.md, section 3); names are ours.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder

BASE = 10_000.0
"""Of the rotary positions."""


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Turn pairs of (..., time, dim) by angles that grow with time."""
    time, half = x.shape[-2], x.shape[-1] // 2
    rates = BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(time, device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class TimeLayer(nn.Module):
    """A post-norm transformer layer over time with rotary positions."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (sequences, time, width).
            seen: Which samples are looked at, (sequences, time) bool.
        """
        shape = *x.shape[:2], self.heads, x.shape[2] // self.heads
        q, k, v = (p.view(shape).transpose(1, 2) for p in self.query_key_value(x).chunk(3, 2))
        drop = self.dropout if self.training else 0.0
        mask = seen[:, None, None, :]
        found = F.scaled_dot_product_attention(rotate(q), rotate(k), v, mask, drop)
        found = self.outward(found.transpose(1, 2).flatten(2))
        x = self.norms[0](x + F.dropout(found, self.dropout, self.training))
        found = self.feedforward(x)
        return self.norms[1](x + F.dropout(found, self.dropout, self.training))


class FusionTransformer(Encoder):
    """Options besides those of all: hidden (256), fusion_layers (1), fusion_heads (4), layers (2),
    heads (8), dropout (.3), mask (.2, samples that are not looked at in training), before (10
    empty samples in front)."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        hidden, drop = int(options.get("hidden", 256)), float(options.get("dropout", 0.3))
        heads, fusion_heads = int(options.get("heads", 8)), int(options.get("fusion_heads", 4))
        self.mask, self.before = float(options.get("mask", 0.2)), int(options.get("before", 10))
        width = (len(self.dims) + 1) * hidden
        if hidden % fusion_heads or width % (2 * heads):
            raise BadInput(
                f"model: hidden {hidden} is not divided by fusion_heads {fusion_heads}, or width "
                f"{width} (hidden x streams + subject) by twice heads {heads}"
            )
        self.inward = nn.ModuleDict({n: nn.Linear(d, hidden) for n, d in self.dims.items()})
        self.subject = nn.Embedding(self.subjects, hidden)
        self.fusion = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, fusion_heads, 4 * hidden, drop, "gelu", batch_first=True
            )
            for _ in range(int(options.get("fusion_layers", 1)))
        )
        self.layers = nn.ModuleList(
            TimeLayer(width, heads, drop) for _ in range(int(options.get("layers", 2)))
        )
        self.head = nn.Linear(width, self.parcels)

    def encode(self, streams: dict[str, torch.Tensor], inside: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([self.inward[n](v) for n, v in streams.items()], dim=2)
        windows, time, _, hidden = tokens.shape
        seen = inside
        if self.training and self.mask:
            seen = inside & (torch.rand(inside.shape, device=inside.device) >= self.mask)
        seen = F.pad(seen, (self.before, 0), value=False)
        # A window of which nothing is seen looks at all of it.
        seen = seen | ~seen.any(1, keepdim=True)
        found = []
        for subject in self.subject.weight:
            own = subject.expand(windows, time, 1, hidden)
            x = torch.cat([tokens, own], dim=2).flatten(0, 1)  # (windows * time, streams + 1, ...)
            for layer in self.fusion:
                x = layer(x)
            x = x.view(windows, time, -1) * inside[..., None]
            x = F.pad(x, (0, 0, self.before, 0))
            for layer in self.layers:
                x = layer(x, seen)
            found.append(self.head(x[:, self.before :]))
        return torch.stack(found, dim=2)

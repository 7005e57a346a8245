"""NDT1: a transformer over the bins of a trial that looks both ways.

It tells log rates of all units, and its width is their number. Input are the
counts of held-in units in the trial; held-out units and the bins behind it are zeros there. It
fulfils `model.contract`, so that every trainer of this project takes it.

Source: Ye and Pandarinath 2021, doi:10.51628/001c.27358, and snel-repo/neural-data-transformers.
Its layers all began as copies of one; here each has weights of its own from the start.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ndt3_dist.config import check
from ndt3_dist.model.contract import Output, Target
from ndt3_dist.shards.manifest import Session
from ndt3_dist.tasks.nlb.ndt1_config import Ndt1Config
from ndt3_dist.tasks.nlb.ndt1_packing import TrialPacking

INIT = 0.1
"""First weights of embedding and read-out lie within this of zero."""


class Layer(nn.Module):
    """Attention within the context, then two linear maps."""

    def __init__(self, config: Ndt1Config):
        super().__init__()
        width = config.width
        self.heads, self.pre_norm, self.rate = config.heads, config.pre_norm, config.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)
        if config.fixup:
            with torch.no_grad():
                for part in (self.up, self.down, self.out):
                    part.weight.mul_(0.67 * config.layers**-0.25)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """(trials, bins, width); `allowed` (bins, bins) says which bins a bin looks at."""
        y = self.attend(self.norm1(x) if self.pre_norm else x, allowed)
        x = x + self.dropout(y)
        x = x if self.pre_norm else self.norm1(x)
        y = self.norm2(x) if self.pre_norm else x
        x = x + self.dropout(self.down(self.dropout(F.relu(self.up(y)))))
        return x if self.pre_norm else self.norm2(x)

    def attend(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        trials, bins, width = x.shape
        parts = self.qkv(x).view(trials, bins, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (trials, heads, bins, head_dim)
        rate = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=rate)
        return self.out(y.transpose(1, 2).reshape(trials, bins, width))


class NDT1(nn.Module):
    """See the module."""

    targets = (
        Target("counts", "spikes", "Poisson loss, in nats, of counts that are hidden from it"),
    )

    def __init__(self, config: Ndt1Config):
        super().__init__()
        self.config = config
        if config.embed:
            self.embed = nn.Embedding(config.max_count + 2, config.embed)
            nn.init.uniform_(self.embed.weight, -INIT, INIT)
        self.position = nn.Parameter(torch.randn(config.length, config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.readout = nn.Linear(config.width, config.units)
        nn.init.uniform_(self.readout.weight, -INIT, INIT)
        nn.init.constant_(self.readout.bias, math.log(config.first_rate))
        self.drop_embedding = nn.Dropout(config.dropout_embedding)
        self.drop_rates = nn.Dropout(config.dropout_rates)
        self.register_buffer("allowed", context(config), persistent=False)

    def log_rates(self, given: torch.Tensor) -> torch.Tensor:
        """Log expected counts of all units, of what is given of trials.

        Args:
            given: (trials, bins, units) uint8.
        Returns:
            (trials, bins, units) in the weights' type.
        """
        weight = self.readout.weight
        if self.config.embed:
            x = self.embed(given.long()).flatten(2)  # (trials, bins, width)
        else:
            x = given.to(weight.dtype)
        x = self.drop_embedding(x * math.sqrt(self.config.width) + self.position)
        for layer in self.layers:
            x = layer(x, self.allowed)
        return self.readout(self.drop_rates(self.norm(x)))

    def forward(self, batch: dict[str, torch.Tensor], *divisors: float) -> Output:
        """Loss over all that is told, over the share of counts that it is expected to be of."""
        log_rates = self.log_rates(batch["given"]).float()
        counts = batch["counts"].float()
        each = (log_rates.exp() - counts * log_rates) * batch["labels"]
        losses = each.double().sum((1, 2)) / self.config.labelled
        total = losses.sum()
        loss = (total / max(divisors[0], 1)).float()
        details = {"losses": losses.detach(), "log_rates": log_rates.detach()}
        return Output(loss, total.detach()[None], details)

    def packing(self, sessions: Sequence[Session]) -> TrialPacking:
        return TrialPacking(sessions, self.config)

    def batch(self, arrays: dict[str, np.ndarray], device: torch.device) -> Any:
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def by_segment(self, output: Output, batch: Any) -> torch.Tensor:
        return output.details["losses"][:, None]

    def predictions(self, output: Output, windows: list[Any]) -> list[dict[str, np.ndarray]]:
        rates = output.details["log_rates"].exp().cpu().numpy()
        return [{"counts": of_trial} for of_trial in rates]

    def operations(self, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
        c, (trials, bins, _) = self.config, arrays["given"].shape
        block = bins * (8 * c.width**2 + 4 * c.width * c.hidden) + 4 * bins**2 * c.width
        return trials * (c.layers * block + 2 * bins * c.width * c.units), 0


def context(config: Ndt1Config) -> torch.Tensor:
    """Which bins (columns) a bin (row) looks at, (bins, bins) bool."""
    ahead = torch.arange(config.length)[None] - torch.arange(config.length)[:, None]
    allowed = torch.ones(config.length, config.length, dtype=torch.bool)
    if config.context_forward >= 0:
        allowed &= ahead <= config.context_forward
    if config.context_backward > 0:  # 0 is all, as in the original
        allowed &= ahead >= -config.context_backward
    return allowed


def build(options: dict[str, Any]) -> NDT1:
    """The section `model` of a config. Raises BadInput."""
    return NDT1(check(Ndt1Config, options, "model"))

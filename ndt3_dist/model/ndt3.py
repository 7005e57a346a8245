"""NDT3: a transformer over packed spike and covariate tokens, causal unless it is asked to be NDT2.

Faithful to upstream's behaviour, quirks included where weights depend on them: the output is the
last MLP's alone (no residual, no final norm); layer norms bear no weights but QK norms do; SwiGLU
splits [up | gate]; tokens of a bin share one rotation; covariate inputs are blanked. The residual
stream is float32 whatever the weights are.

With `model.objective: masked` the same blocks see the whole window, each slot has its own token as
input, and tokens that are hidden, a learned vector in place of their counts, are predicted.

Source: joel99/ndt3 at 472466a, whose outputs tests/golden agrees with.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.checkpoint import checkpoint

from ndt3_dist.config import check
from ndt3_dist.model import fused
from ndt3_dist.model.attention import LOOPS, attend, choose_body
from ndt3_dist.model.contract import Output
from ndt3_dist.model.flops import block_flops, head_flops
from ndt3_dist.model.linear import Linear
from ndt3_dist.model.losses import covariate_losses, poisson_targets, spike_losses
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.objective.targets import targets
from ndt3_dist.model.padding import Sizes, padded
from ndt3_dist.model.tokenise import NDT3Packing, Window
from ndt3_dist.model.tokens import PackedTokens

if TYPE_CHECKING:  # an export loads without the corpus's code
    from ndt3_dist.shards.manifest import Session

NORM_EPS = 1e-5
Mix = Callable[["Attention", torch.Tensor], torch.Tensor]
"""Attention proper: queries, keys, values (tokens, 3, heads, head_dim), neither normed nor turned,
to the mixture of values (tokens, heads, head_dim)."""


def norm(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Layer norm over the last dimension in float32, without bias."""
    scale = None if weight is None else weight.float()
    return F.layer_norm(x.float(), x.shape[-1:], scale, eps=NORM_EPS)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, half-split pairs (i, i + head_dim / 2).

    Args:
        x: (tokens, heads, head_dim) float32.
        cos, sin: (tokens, 1, head_dim / 2) float32.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class QKNorm(nn.Module):
    """Layer norm over the head dimension, one weight for all heads, no bias."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return norm(x, self.weight)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.dim, 3 * config.dim)
        self.out = Linear(config.dim, config.dim)
        self.q_norm = QKNorm(config.dim // config.heads)
        self.k_norm = QKNorm(config.dim // config.heads)

    def forward(self, x: torch.Tensor, mix: Mix) -> torch.Tensor:
        # To be unbound where it lies: the backward pass then stacks it without a transposition.
        qkv = rearrange(self.qkv(x), "t (three h d) -> t three h d", three=3, h=self.heads)
        return self.out(rearrange(mix(self, qkv), "t h d -> t (h d)"))

    def normed(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normed queries and keys, float32, and values, each (tokens, heads, head_dim)."""
        q, k, v = qkv.unbind(1)
        return self.q_norm(q), self.k_norm(k), v


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up_gate = Linear(config.dim, 2 * config.feedforward)
        self.down = Linear(config.feedforward, config.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if fused.is_used(self.down.weight):
            return self.down(fused.swiglu(self.up_gate(x)))
        up, gate = self.up_gate(x).float().chunk(2, dim=-1)
        return self.down((up * F.silu(gate)).to(x.dtype))


class Block(nn.Module):
    """Takes (branch, residual) and returns them: the residual is added at the next norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dropout = config.dropout
        self.attention = Attention(config)
        self.mlp = SwiGLU(config)

    def forward(self, h: torch.Tensor, residual: torch.Tensor, mix: Mix):
        residual, x = self.add(h, residual)
        residual, x = self.add(self.attention(x, mix), residual)
        return self.mlp(x), residual

    def add(self, h: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual with a branch, float32, and its norm, in the weights' type."""
        weight = self.mlp.down.weight
        if fused.is_used(weight):
            dropout = self.dropout if self.training else 0.0
            return fused.add_norm(h, residual, dropout, weight.dtype)
        residual = residual + F.dropout(h, self.dropout, self.training)
        return residual, norm(residual).to(weight.dtype)


class NDT3(nn.Module):
    """The model. Parameters in upstream's order; `model.upstream` maps names to upstream's.

    Attributes:
        masked: Whether it sees both directions and predicts hidden tokens.
        keeps: Whether what it computed of a bin holds once later ones have come.
        recompute: Keep no activations inside blocks; the backward pass computes them again.
        pad_to: Tokens of which micro-batches are padded to a multiple (`model.padding`); 0 = never.
    """

    poisson: torch.Tensor
    recompute, pad_to = False, 0

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, self.targets = config, targets(config)
        dim, self.masked = config.dim, config.objective == "masked"
        self.keeps = not (self.masked or config.context)
        beside = nn.Parameter(torch.randn(dim) / dim**0.5)
        if self.masked:
            self.hidden_in = beside
        else:
            self.sos = beside
        self.space = nn.Embedding(config.max_space + 1, dim, padding_idx=config.max_space)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.spike_out = Linear(dim, config.channels_per_token * config.count_classes)
        self.spike_in = nn.Embedding(config.count_clip + 1, dim // config.channels_per_token)
        self.covariate_in = Linear(1, dim)
        self.covariate_out = Linear(dim, 1)
        self.constraint_in = nn.Parameter(torch.randn(3, dim))
        self.return_in = nn.Embedding(config.max_return + 1, dim, padding_idx=0)
        self.reward_in = nn.Embedding(3, dim, padding_idx=0)
        if config.context:
            self.identity_in = nn.Embedding(len(config.identities), dim)
        self.register_buffer("poisson", poisson_targets(config.count_classes), persistent=False)

    def _apply(self, fn, recurse=True):
        moved = super()._apply(fn, recurse)
        # Conversion to bf16 would round what spikes are scored against.
        moved.poisson = poisson_targets(self.config.count_classes).to(moved.poisson.device)
        return moved

    def embed(self, tokens: PackedTokens, first: torch.Tensor | None = None) -> torch.Tensor:
        """Input of each slot: content of the slot before it (masked: its own) plus its own space.

        Args:
            tokens: One or more rows.
            first: Content that enters each segment's first slot, (dim,); None = the learned start.
        Returns:
            (tokens, dim) float32.
        """
        config, device = self.config, tokens.time.device
        counts = tokens.spikes.clamp(max=config.count_clip).int()
        spikes = self.spike_in(counts).flatten(1)
        if self.masked:
            spikes = torch.where(tokens.spike_hidden[:, None], self.hidden_in, spikes)
        # Blanked inputs are multiplied by zero, not skipped: their layer keeps a gradient of
        # exactly zero, so that weight decay acts on it as it does upstream.
        seen = self.covariate_in(tokens.covariates[:, None].to(self.covariate_in.weight.dtype))
        seen = seen.float() * ~tokens.covariate_blank[:, None]
        constraint = tokens.constraint @ self.constraint_in.float()
        returns = self.return_in(tokens.returns[:, 0]) + self.reward_in(tokens.returns[:, 1])
        contents = [spikes.float(), seen, constraint, returns.float()]
        slots = [tokens.spike_slot, tokens.covariate_slot, tokens.constraint_slot]
        slots.append(tokens.return_slot)
        if config.context:
            contents.append(self.identity_in(tokens.identity.clamp(min=0)).float())
            slots.append(tokens.identity_slot)
        end = tokens.num_tokens
        if self.masked:
            # What is padding, or zero, enters nowhere: it lies in slots of others.
            is_there = [tokens.spike_channels > 0, torch.zeros_like(tokens.covariate_blank)]
            is_there += [tokens.constraint.any(1), tokens.returns.any(1), tokens.identity >= 0]
            to = torch.where(torch.cat(is_there[: len(slots)]), torch.cat(slots), end)
        else:
            starts = tokens.cu_seqlens[:-1].long()
            start = (self.sos if first is None else first).float().expand(len(starts), -1)
            # All of it at once, each a slot on; what is last in its segment leaves at the end.
            begins = torch.zeros(end + 1, dtype=torch.bool, device=device)
            begins.index_fill_(0, tokens.cu_seqlens.long(), True)
            to = torch.cat(slots) + 1
            to = torch.cat((torch.where(begins[to], end, to), starts))
            contents.append(start)
        entered = torch.zeros(end + 1, config.dim, device=device)
        entered = entered.index_copy_(0, to, torch.cat(contents))
        return entered[:end] + self.space(tokens.space).float()

    def rotary(self, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of each bin's rotation, two (tokens, 1, head_dim / 2) float32."""
        head_dim = self.config.dim // self.config.heads
        pairs = torch.arange(0, head_dim, 2, device=time.device, dtype=torch.float32)
        angle = time[:, None] * self.config.rope_base ** (-pairs / head_dim)
        return angle.cos()[:, None], angle.sin()[:, None]

    def features(self, tokens: PackedTokens, layers: int | None = None) -> torch.Tensor:
        """Output of the last MLP at each slot, (tokens, dim): what the heads read.

        With fewer `layers` than there are, the residual behind so many blocks, their outputs added:
        what the next block reads.
        """
        config, dtype = self.config, self.spike_out.weight.dtype
        dropout = config.attention_dropout
        body = choose_body(config.attention, tokens.time.device, dtype, dropout)
        dropout, fixed = dropout if self.training else 0.0, config.attention_fixed_order
        segments = tokens.cu_seqlens, tokens.seqlens
        longest = tokens.longest  # a number of its own: a graph depends on no segment's length
        causal = not self.masked
        cos, sin = self.rotary(tokens.time)

        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return attend(q, k, v, *segments, dropout, body, longest, fixed, causal)

        if body in LOOPS:  # Python over segments is no graph; what lies around it is
            attention = torch.compiler.disable(attention)  # pyright: ignore[reportAssignmentType]

        def mix(block: Attention, qkv: torch.Tensor) -> torch.Tensor:
            if fused.is_used(block.out.weight):
                weights = block.q_norm.weight, block.k_norm.weight
                q, k, v = fused.norm_rotate(qkv, *weights, cos, sin)
            else:
                q, k, v = block.normed(qkv)
                q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
            return attention(q, k, v)

        h = self.embed(tokens)
        residual = torch.zeros_like(h)
        for block in self.blocks[:layers]:
            if self.recompute and torch.is_grad_enabled():
                h, residual = checkpoint(block, h, residual, mix, use_reentrant=False)
            else:
                h, residual = block(h, residual, mix)
        return h if layers in (None, len(self.blocks)) else h + residual

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile each block: for segments of any number and length, or first for those of padded
        micro-batches."""
        for block in self.blocks:
            block.compile(dynamic=None if self.pad_to else True, backend=backend)

    def spike_logits(self, features: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """Logits of each count, (spike_tokens, channels_per_token, count_classes)."""
        return rearrange(
            self.spike_out(features[tokens.spike_slot]),
            "t (channels classes) -> t channels classes",
            channels=self.config.channels_per_token,
        )

    def expected_counts(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean of the spike head's distribution: logits without their last dimension, float32."""
        share = logits.float().softmax(-1)
        return share @ torch.arange(share.shape[-1], device=share.device, dtype=share.dtype)

    def packing(self, sessions: Sequence["Session"]) -> NDT3Packing:
        return NDT3Packing(sessions, self.config)

    def batch(self, arrays: dict[str, np.ndarray], device: torch.device) -> PackedTokens:
        if self.pad_to:
            arrays = padded(arrays, Sizes.of(arrays, self.pad_to))
        return PackedTokens.from_numpy(arrays, device)

    def forward(self, tokens: PackedTokens, *divisors: float) -> Output:
        """Losses of a micro-batch, divided by the counts of its whole global step.

        Args:
            tokens: One or more rows.
            divisors: Spike targets (bins x channels, masked: those hidden) and valid covariate
                targets of the step.
        Returns:
            Details: spike_losses (spike_tokens,), covariate_losses (covariate_tokens,), covariates
            (covariate_tokens,), all float32, and in evaluation rates, the expected counts,
            (spike_tokens, channels_per_token).
        """
        features = self.features(tokens)
        logits = self.spike_logits(features, tokens)
        scored = tokens.spike_channels
        if self.masked:
            scored = scored * tokens.spike_hidden
        entropy = spike_losses(logits, tokens.spikes, scored, self.poisson)
        predicted = self.covariate_out(features[tokens.covariate_slot])[:, 0].float()
        squares = covariate_losses(predicted, tokens.covariates, tokens.covariate_valid)
        spikes, squared = entropy.sum(), squares.sum()
        num_spikes, num_covariates = divisors
        loss = self.config.spike_weight * spikes / max(num_spikes, 1)
        loss = loss + self.config.covariate_weight * squared / max(num_covariates, 1)
        found = {"spike_losses": entropy, "covariate_losses": squares, "covariates": predicted}
        details = {name: tensor.detach() for name, tensor in found.items()}
        if not self.training:
            details["rates"] = self.expected_counts(logits.detach())
        return Output(loss, torch.stack((spikes, squared)).detach(), details)

    def by_segment(self, output: Output, tokens: PackedTokens) -> torch.Tensor:
        """Sums of both losses over each window, (windows, 2) float64."""
        borders = tokens.cu_seqlens
        sums = torch.zeros(len(borders) - 1, 2, dtype=torch.float64, device=borders.device)
        for column, slots, name in (
            (0, tokens.spike_slot, "spike_losses"),
            (1, tokens.covariate_slot, "covariate_losses"),
        ):
            segments = torch.searchsorted(borders, slots.to(torch.int32), right=True) - 1
            sums[:, column].index_add_(0, segments, output.details[name].double())
        return sums[: tokens.windows]

    def predictions(self, output: Output, windows: list[Window]) -> list[dict[str, np.ndarray]]:
        """Expected counts (bins, channels) and covariates (bins, dims) of each window, float64.

        Of a masked model counts are NaN where they were not hidden.
        """
        rates = output.details["rates"].double().cpu().numpy()
        covariates, found = output.details["covariates"].double().cpu().numpy(), []
        spike = covariate = 0
        for window in windows:
            patches, dims = window.layout.columns.shape[0], window.layout.dims
            spikes, values = len(window.arrays["spikes"]), len(window.arrays["covariates"])
            of_tokens = rates[spike : spike + spikes]
            if self.masked:
                of_tokens = np.where(window.arrays["spike_hidden"][:, None], of_tokens, np.nan)
            of_patches = of_tokens.reshape(-1, patches, rates.shape[1])
            real = np.arange(rates.shape[1]) < window.layout.real[:, None]
            of_dims = covariates[covariate : covariate + values]
            if not dims:  # the dummy is no covariate of the session
                of_dims = np.zeros((spikes // patches, 0))
            predicted = of_dims.reshape(spikes // patches, dims)
            found.append({"spikes": of_patches[:, real], "covariates": predicted})
            spike, covariate = spike + spikes, covariate + values
        return found

    def operations(self, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
        seqlens = np.diff(arrays["cu_seqlens"]).tolist()
        blocks = block_flops(self.config, seqlens)
        slots = len(arrays["spike_slot"]), len(arrays["covariate_slot"])
        return blocks + head_flops(self.config, *slots), blocks


def build(options: dict) -> NDT3:
    """NDT3 of a config's section `model`."""
    return NDT3(check(ModelConfig, options, "model"))

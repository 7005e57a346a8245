"""Decode bin by bin: keys and values of earlier bins are kept, only the new bin is computed.

Equal to a forward pass over the whole stream until the window of `context` bins is full. From then
on the oldest bin's tokens leave with every new one, as upstream has it, and two things differ from
a forward pass over the window alone: what is kept was computed when older bins were still seen,
and the learned start (with the constraint and return tokens of the first bin, if the model has
them) has left.

Memory is allocated once and work per bin is the same for ever: keys and values lie in rings, which
a new bin's tokens enter in place of the oldest's. Keys are kept rotated by the number of their bin:
attention sees differences of bins alone, and angles are taken in float64, exact for years of bins.
Attention is torch's SDPA under a mask, whatever `model.attention` says. Several streams of one
layout go on together.

Source: joel99/ndt3 at 472466a, whose kept and recomputed streams tests/golden agrees with.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ndt3_dist.errors import BadInput, Unsupported
from ndt3_dist.model.linear import CPU_HAS_BF16, prepared
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3, NORM_EPS, Block
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens


def choose_kind(wanted: str, device: torch.device) -> str:
    """What to compute in: `wanted`, or for auto bf16 where the device has it, else fp32.

    Raises:
        Unsupported: The device does not have it.
    """
    has_bf16 = CPU_HAS_BF16 if device.type == "cpu" else True
    if wanted == "auto":
        return "bf16" if has_bf16 else "fp32"
    if wanted == "bf16" and not has_bf16:
        raise Unsupported("bf16: this CPU has no instructions for it; use fp32 or int8")
    return wanted


class Layer:
    """A block of the model, with its products laid out for few rows."""

    def __init__(self, block: Block, kind: str, rows: int):
        attention, mlp = block.attention, block.mlp
        layers = attention.qkv, attention.out, mlp.up_gate, mlp.down
        self.qkv, self.out, self.up_gate, self.down = (prepared(x, kind, rows) for x in layers)
        weights = attention.q_norm.weight, attention.k_norm.weight
        self.norms = torch.stack(weights).detach().float()[:, None]  # (2, 1, head_dim)
        self.dtype = torch.bfloat16 if kind == "bf16" else torch.float32

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """Layer norm without weights, in the type of products."""
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS).to(self.dtype)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """Of (rows, dim), float32."""
        up, gate = self.up_gate(x).float().chunk(2, dim=-1)
        return self.down((up * F.silu(gate)).to(self.dtype)).float()


class StreamingDecoder:
    """A model and what it remembers of streams that go on together.

    Attributes:
        context: Bins that are kept, the newest included.
        kind: fp32, bf16 or int8.
        channels: Of a bin.
        num_bins: That each stream has had.
        keys, values: Of all blocks, (layers, streams, heads, slots, head_dim).
    """

    def __init__(
        self, model: NDT3, layout: Layout, context: int, streams: int = 1, kind: str = "fp32"
    ):
        """
        Args:
            model: In evaluation mode; of its weights a copy is kept, laid out for single bins.
            kind: fp32, bf16, int8 or auto (`choose_kind`); keys and values are bf16 but for fp32.
        Raises:
            BadInput: Nothing to decode, or a model in training.
            Unsupported: The device has no such products, or what it keeps does not hold.
        """
        if not model.keeps:
            why = (
                "a masked model sees both directions"
                if model.masked
                else ("identities stand before each window")
            )
            raise Unsupported(
                f"{why}: what was computed of earlier bins does not hold once another has come; "
                "run each window anew (decode.py --recompute)"
            )
        if context < 1:
            raise BadInput(f"context {context}: expected at least 1 bin")
        if model.training:
            raise BadInput("the model is in training mode; decode with model.eval()")
        if not layout.dims:
            raise BadInput("the session has no covariates to decode")
        self.model, self.layout, self.context, self.streams = model, layout, context, streams
        config, self.device = model.config, model.sos.device
        self.kind, self.channels = choose_kind(kind, self.device), int(layout.real.sum())
        silent = np.zeros((streams, self.channels), np.uint8)
        later = config.model_copy(update={"context_tokens": False})
        first, later = (self._tokens(silent[:1], c) for c in (config, later))
        self.per_bin, self.spare = later.num_tokens, first.num_tokens - later.num_tokens
        with torch.no_grad():
            self.space = model.space(later.space).float()
        blocks: list[Any] = [*model.blocks]
        self.layers = [Layer(block, self.kind, streams * self.per_bin) for block in blocks]
        width = config.dim // config.heads
        self.frequency = config.rope_base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
        dtype = torch.float32 if self.kind == "fp32" else torch.bfloat16
        slots = context * self.per_bin + self.spare  # those of what only a first bin has come last
        shape = config.layers, streams, config.heads, slots, width
        self.keys = torch.zeros(shape, dtype=dtype, device=self.device)
        self.values = torch.zeros_like(self.keys)
        self.mask = self.keys.new_empty(self.per_bin, slots)
        self.own = causal(self.per_bin).to(self.mask)
        self.reset()

    def reset(self) -> None:
        """Forget the streams: the next bin is the first."""
        self.num_bins = 0
        self.mask.fill_(float("-inf"))

    def state(self) -> dict[str, np.ndarray]:
        """All that is remembered, as arrays to be saved."""
        kept = {"keys": self.keys, "values": self.values, "mask": self.mask}
        arrays = {name: t.float().cpu().numpy() for name, t in kept.items()}
        return {**arrays, "num_bins": np.array(self.num_bins)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`. Raises BadInput where it is another decoder's."""
        for name in ("keys", "values", "mask"):
            tensor, array = getattr(self, name), state.get(name)
            if array is None or array.shape != tensor.shape:
                found = "none" if array is None else array.shape
                raise BadInput(f"state: {name} of {found}, expected {tuple(tensor.shape)}")
            tensor.copy_(torch.from_numpy(array))
        self.num_bins = int(state["num_bins"])

    @torch.no_grad()
    def step(self, counts: np.ndarray) -> torch.Tensor:
        """Read the next bin of each stream and predict its covariates.

        Args:
            counts: (streams, channels) uint8.
        Returns:
            (streams, dims) float32, in units of the session's scale.
        """
        states = self.hidden(counts).to(self.model.covariate_out.weight.dtype)
        return self.model.covariate_out(states)[..., 0].float()

    @torch.no_grad()
    def hidden(self, counts: np.ndarray) -> torch.Tensor:
        """The same up to the hidden states that covariates are read from, float32.

        Returns:
            (streams, dims, width).
        """
        if counts.shape != (self.streams, self.channels):
            raise BadInput(
                f"a bin of {counts.shape} counts; expected {self.streams} streams of "
                f"{self.channels} channels"
            )
        if self.num_bins:
            h, mask, slots = self._later(counts), self.mask, self._enter()
        else:
            h, mask, slots = self._first(counts)
        angle = self.num_bins * self.frequency
        turn = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32))
        h = self._blocks(h, mask, slots, *turn.to(self.device))
        self.num_bins += 1
        return h.view(self.streams, -1, h.shape[-1])[:, -self.layout.dims :]

    def _first(self, counts: np.ndarray):
        """Input of each stream's first bin, what its tokens see, and the slots that they enter."""
        h = self.model.embed(self._tokens(counts, self.model.config))
        tokens, slots = self.per_bin + self.spare, self.mask.shape[1]
        order = [*range(slots - self.spare, slots), *range(self.per_bin)]
        mask = self.mask.new_full((tokens, slots), float("-inf"))
        mask[:, order] = causal(tokens).to(mask)
        self.mask[:, order] = 0
        self.mask[:, : self.per_bin] = self.own
        return h, mask, torch.tensor(order, device=self.device)

    def _later(self, counts: np.ndarray) -> torch.Tensor:
        """Input of a bin: of each slot its space and the content of the slot before it.

        Before the first lies a covariate of the bin before, which is blanked.
        """
        padded = np.zeros((self.streams, self.channels + 1), np.uint8)
        padded[:, :-1] = np.minimum(counts, self.model.config.count_clip)
        taken = torch.from_numpy(padded.take(self.layout.columns, axis=1)).to(self.device)
        spikes = self.model.spike_in(taken.int()).flatten(2).float()
        h = self.space.repeat(self.streams, 1, 1)
        h[:, 1 : 1 + spikes.shape[1]] += spikes
        return h.flatten(0, 1)

    def _enter(self) -> slice:
        """The slots of a later bin, which it sees up to each of its own; all others are older."""
        bin_, per = self.num_bins % self.context, self.per_bin
        slots = slice(bin_ * per, (bin_ + 1) * per)
        before = (self.num_bins - 1) % self.context
        self.mask[:, before * per : (before + 1) * per] = 0
        self.mask[:, slots] = self.own
        if self.num_bins == self.context and self.spare:  # the first bin has left
            self.mask[:, -self.spare :] = float("-inf")
        return slots

    def _blocks(self, h, mask, slots, cos, sin) -> torch.Tensor:
        """All blocks over the tokens of one bin, (streams * tokens, dim) float32."""
        streams, heads, dim = self.streams, self.model.config.heads, h.shape[1]
        residual = torch.zeros_like(h)
        for number, layer in enumerate(self.layers):
            residual += h
            qkv = layer.qkv(layer.normed(residual)).view(streams, -1, 3, heads, dim // heads)
            qk = qkv[:, :, :2].float()
            qk = F.layer_norm(qk, qk.shape[-1:], eps=NORM_EPS) * layer.norms
            a, b = qk.chunk(2, dim=-1)
            qk = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(self.keys)
            q, k = qk.transpose(1, 3).unbind(2)  # (streams, heads, tokens, head_dim)
            keys, values = self.keys[number], self.values[number]
            keys[:, :, slots] = k
            values[:, :, slots] = qkv[:, :, 2].transpose(1, 2).to(values)
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            mixed = mixed.transpose(1, 2).reshape(-1, dim).to(layer.dtype)
            residual += layer.out(mixed).float()
            h = layer.mlp(layer.normed(residual))
        return h

    def _tokens(self, counts: np.ndarray, config: ModelConfig) -> PackedTokens:
        """One bin of each stream as a window of its own, (streams, channels)."""
        hidden, lists = np.full((1, self.layout.dims), np.nan, np.float32), TokenLists()
        for of_stream in counts:
            sample = {"spikes": of_stream[None], "covariates": hidden}
            lists.add(*tokenise(sample, self.layout, config))
        return PackedTokens.from_numpy(lists.pack(), self.device)


def causal(tokens: int) -> torch.Tensor:
    """What is added to attention's scores: each token sees those up to itself."""
    return torch.full((tokens, tokens), float("-inf")).triu(1)

"""Hidden states of a whole piece, each bin computed once: what a stream with kept keys sees.

Many bins go through the model at a time, and every layer's attention reaches from a bin over those
of the `context` bins that end with it, as keys and values that a stream keeps do
(`model.streaming`, to which this is equal). A window that is run anew for some bins instead sees
nothing that lies before it (`evaluate.decode`), and costs as many times the work as it is longer
than these bins.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ndt3_dist import log
from ndt3_dist.data.continuous import Piece
from ndt3_dist.model.ndt3 import NDT3, Attention, rotate
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

LEAST_BINS = 64
"""Bins that go through the model at a time, where `context` is less."""


class Kept:
    """Keys and values of earlier bins, of one layer after another.

    Attributes:
        time: Bins of the kept tokens, counted from the first bin of those that come next.
        of_layers: Normed keys that are not rotated yet, and values, (tokens, heads, head_dim).
    """

    def __init__(self, model: NDT3, context: int):
        self.model, self.context = model, context
        device = model.sos.device
        self.time = torch.zeros(0, dtype=torch.int64, device=device)
        self.of_layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def features(self, tokens: PackedTokens, bins: int, layers: int | None) -> torch.Tensor:
        """`NDT3.features` of the next bins, which see those before; these are kept in their turn.

        Args:
            tokens: Of so many bins, one segment.
            layers: As there.
        """
        model = self.model
        first = torch.zeros_like(model.sos) if len(self.time) else None
        time = torch.cat((self.time, tokens.time))
        order = torch.arange(len(time), device=time.device)
        own = order[len(self.time) :, None]
        seen = (order <= own) & (time > tokens.time[:, None] - self.context)
        cos, sin = model.rotary(time)
        recent = time >= bins - self.context + 1

        def mixed(number: int):
            def mix(block: Attention, qkv: torch.Tensor) -> torch.Tensor:
                q, k, v = block.normed(qkv)
                if number in self.of_layers:
                    before = self.of_layers[number]
                    k, v = torch.cat((before[0], k)), torch.cat((before[1], v))
                self.of_layers[number] = k[recent], v[recent]
                q = rotate(q, cos[-len(q) :], sin[-len(q) :]).to(v)
                q, k, v = (x.transpose(0, 1)[None] for x in (q, rotate(k, cos, sin).to(v), v))
                found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
                return found[0].transpose(0, 1)

            return mix

        h = model.embed(tokens, first)
        residual = torch.zeros_like(h)
        for number, block in enumerate([*model.blocks][:layers]):
            h, residual = block(h, residual, mixed(number))
        self.time = time[recent] - bins
        return h if layers in (None, len(model.blocks)) else h + residual


@torch.no_grad()
def roll(
    model: NDT3, piece: Piece, layout: Layout, context: int, layers: int | None = None
) -> Iterator[tuple[torch.Tensor, PackedTokens, slice]]:
    """Features, tokens and place in time of one part of a piece after another.

    Args:
        model: In evaluation mode.
        piece: Consecutive bins; its covariates are never shown to the model.
        context: Bins that attention reaches over, a bin's own included.
        layers: As in `NDT3.features`.
    """
    kept, bins, at_once = Kept(model, context), len(piece), max(context, LEAST_BINS)
    later = model.config.model_copy(update={"context_tokens": False})
    with log.counting("decoding", bins, unit="bins") as step:
        for start in range(0, bins, at_once):
            stop, lists = min(start + at_once, bins), TokenLists()
            config = later if start else model.config
            lists.add(*tokenise(piece.window(start, stop), layout, config))
            tokens = PackedTokens.from_numpy(lists.pack(), model.sos.device)
            yield kept.features(tokens, stop - start, layers), tokens, slice(start, stop)
            step.add(stop - start)

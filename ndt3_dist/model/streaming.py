"""Decode bin by bin: keys and values of earlier bins are kept, only the new bin is computed.

Equal to a forward pass over the whole stream until the window of `context` bins is full. From then
on the oldest bin's tokens leave with every new one, as upstream has it, and two things differ from
a forward pass over the window alone: what is kept was computed when older bins were still seen,
and the learned start (with the constraint and return tokens of the first bin, if the model has
them) has left. Memory and work per bin are bounded by the window.

Keys are kept unrotated and turned by their place in the window, so that hours of bins cost no
precision. Attention is torch's SDPA under an explicit mask, whatever `model.attention` says.

Source: joel99/ndt3 at 472466a, whose kept and recomputed streams tests/golden agrees with.
"""

from collections import deque

import torch
import torch.nn.functional as F

from ndt3_dist.errors import BadInput
from ndt3_dist.model.ndt3 import NDT3, Attention, rotate
from ndt3_dist.model.tokens import PackedTokens


class StreamingDecoder:
    """A model and what it remembers of a stream.

    Attributes:
        model: In evaluation mode.
        context: Bins that are kept, the newest included.
        tokens_of_bin: Tokens of each kept bin, oldest first.
        keys: Of each block, (kept tokens, heads, head_dim) float32, normed and not rotated.
        values: Of each block, the same shape in the model's dtype.
    """

    def __init__(self, model: NDT3, context: int):
        if context < 1:
            raise BadInput(f"context {context}: expected at least 1 bin")
        if model.training:
            raise BadInput("the model is in training mode; decode with model.eval()")
        self.model = model
        self.context = context
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next bin is the first."""
        config, weight = self.model.config, self.model.spike_out.weight
        none = torch.zeros(0, config.heads, config.dim // config.heads, device=weight.device)
        self.tokens_of_bin: deque[int] = deque()
        self.keys = [none] * config.layers
        self.values = [none.to(weight.dtype)] * config.layers
        self.num_bins = 0

    @torch.no_grad()
    def step(self, tokens: PackedTokens) -> torch.Tensor:
        """Read the next bin and predict its covariates.

        Args:
            tokens: One bin of one session, covariates blanked and last; their `time` is not used.
                Constraint and return tokens belong to the first bin alone.
        Returns:
            (dims,) float32, in units of the session's scale.
        Raises:
            BadInput: The bin has no covariate tokens, so there is nothing to predict.
        """
        states = self.hidden(tokens)
        return self.model.covariate_out(states)[:, 0].float()

    @torch.no_grad()
    def hidden(self, tokens: PackedTokens) -> torch.Tensor:
        """The same up to the hidden states that covariates are read from, (dims, width)."""
        fresh, model = tokens.num_tokens, self.model
        if not len(tokens.covariate_slot):
            raise BadInput("the session has no covariates to decode")
        leaving = self.tokens_of_bin.popleft() if len(self.tokens_of_bin) == self.context else 0
        self.tokens_of_bin.append(fresh)
        device = tokens.time.device
        place = torch.arange(len(self.tokens_of_bin), device=device)
        time = place.repeat_interleave(torch.tensor(self.tokens_of_bin, device=device))
        cos, sin = model.rotary(time)  # (kept tokens, 1, head_dim / 2)
        seen = torch.ones(fresh, len(time), dtype=torch.bool, device=device)
        seen = seen.tril(len(time) - fresh)  # all older tokens, and the bin's own up to each

        def mix_of(layer: int):
            def mix(block: Attention, qkv: torch.Tensor) -> torch.Tensor:
                q, k, v = block.normed(qkv)
                keys = self.keys[layer] = torch.cat((self.keys[layer][leaving:], k))
                values = self.values[layer] = torch.cat((self.values[layer][leaving:], v))
                q = rotate(q, cos[-fresh:], sin[-fresh:]).to(v.dtype)
                keys = rotate(keys, cos, sin).to(v.dtype)
                one = (x.transpose(0, 1)[None] for x in (q, keys, values))  # (1, heads, tokens, d)
                mixed = F.scaled_dot_product_attention(*one, attn_mask=seen)
                return mixed[0].transpose(0, 1)

            return mix

        # The slot before a later bin is the last covariate of the bin before it, which is blanked.
        start = None if self.num_bins == 0 else torch.zeros_like(model.sos)
        h = model.embed(tokens, start)
        residual = torch.zeros_like(h)
        for layer, block in enumerate(model.blocks):
            h, residual = block(h, residual, mix_of(layer))
        self.num_bins += 1
        return h[tokens.covariate_slot]

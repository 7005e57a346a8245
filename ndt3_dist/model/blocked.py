"""Attention, causal or not, as matrix products over blocks of queries: the body for CPUs.

Their matrix products are fast, so nothing is computed again in the backward pass: the weights of
each block of queries over the keys that it sees are kept. Against torch's SDPA:
docs/LOG.md, "A machine without bf16 instructions".
"""

import torch
from torch.autograd.function import once_differentiable

from ndt3_dist.model.linear import product_dtype

BLOCK = 128
"""Queries of a block."""


class Blocked(torch.autograd.Function):
    """Attention of (batch, length, head_dim) queries, keys and values of one type, contiguous."""

    @staticmethod
    def forward(ctx, q, k, v, dropout: float, causal: bool):
        length, scale = q.shape[1], q.shape[2] ** -0.5
        output, weights, kept = torch.empty_like(v), [], []
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            seen = stop if causal else length
            future = q.new_full((stop - start, seen), float("-inf"))
            future = future.triu(start + 1) if causal else torch.zeros_like(future)
            scores = torch.baddbmm(future, q[:, start:stop], k[:, :seen].mT, alpha=scale)
            weight = scores.softmax(-1)
            weights.append(weight)
            if dropout:
                kept.append(torch.empty_like(weight, dtype=torch.bool).bernoulli_(1 - dropout))
                weight = (weight * kept[-1]).div_(1 - dropout)
            output[:, start:stop] = weight @ v[:, :seen]
        ctx.save_for_backward(q, k, v, output, *weights, *kept)
        ctx.dropout = dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        q, k, v, output, *blocks = ctx.saved_tensors
        starts = range(0, q.shape[1], BLOCK)
        weights, kept = blocks[: len(starts)], blocks[len(starts) :]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # What the softmax takes from each row: the sum of its weights times their gradients.
        mean = (grad * output).sum(-1, keepdim=True)
        for i, start in enumerate(starts):
            rows = slice(start, min(start + BLOCK, q.shape[1]))
            weight, g = weights[i], grad[:, rows]
            seen = weight.shape[-1]
            dscore = g @ v[:, :seen].mT
            if kept:
                dscore = dscore.mul_(kept[i]).div_(1 - ctx.dropout)
                used = (weight * kept[i]).div_(1 - ctx.dropout)
            else:
                used = weight
            dv[:, :seen].baddbmm_(used.mT, g)
            dscore.sub_(mean[:, rows]).mul_(weight)
            dq[:, rows] = dscore @ k[:, :seen]
            dk[:, :seen].baddbmm_(dscore.mT, q[:, rows])
        scale = q.shape[2] ** -0.5
        return dq.mul_(scale), dk.mul_(scale), dv, None, None


def blocked(q, k, v, dropout: float, causal: bool = True) -> torch.Tensor:
    """Attention of (segments, heads, length, head_dim), each segment and head for itself."""
    shape, dtype = v.shape, product_dtype(v)
    one = (x.to(dtype).reshape(-1, *shape[2:]).contiguous() for x in (q, k, v))
    output = Blocked.apply(*one, dropout, causal)
    return output.view(shape).to(v.dtype)  # pyright: ignore[reportAttributeAccessIssue]

# pyright: reportGeneralTypeIssues=false
"""Triton kernels of what lies between the matrix products: each tensor read once.

Everything is computed in float32 in registers and written in the type of its output. Dropout keeps
no mask: whether an element is dropped follows from a seed and its number, forward and backward.
`model.fused` calls them; the plain operations of `model.ndt3` say what they compute.
"""

import triton
import triton.language as tl


@triton.jit
def spread_bits(x):
    """All 32 bits of a number depend on all of them. Source: C. Wellons' lowbias32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def is_kept(seed, element, threshold):
    """Whether dropout keeps elements: `threshold` of 2^32 numbers say no."""
    low, high = tl.load(seed).to(tl.uint32), tl.load(seed + 1).to(tl.uint32)
    return spread_bits(spread_bits(element.to(tl.uint32) ^ low) + high) >= threshold


@triton.jit
def add_norm_forward(
    h, residual, seed, total, normed, mean, rstd, threshold, scale, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """total = residual + dropout(h); normed = layer norm of it. A program is one token."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, first = column < WIDTH, token * WIDTH
    x = tl.load(h + first + column, inside, 0.0).to(tl.float32)
    if DROPS:
        x = tl.where(is_kept(seed, first.to(tl.uint32) + column, threshold), x * scale, 0.0)
    x += tl.load(residual + first + column, inside, 0.0)
    tl.store(total + first + column, x, inside)
    center = tl.sum(x) / WIDTH
    x = tl.where(inside, x - center, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(x * x) / WIDTH + eps)
    tl.store(normed + first + column, (x * inverse).to(normed.dtype.element_ty), inside)
    tl.store(mean + token, center)
    tl.store(rstd + token, inverse)


@triton.jit
def add_norm_backward(
    d_total, d_normed, seed, total, mean, rstd, d_h, d_residual, threshold, scale,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Gradients of `add_norm_forward`; ADDS: there is a gradient of total besides normed's."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, first = column < WIDTH, token * WIDTH
    x = tl.load(total + first + column, inside, 0.0) - tl.load(mean + token)
    inverse = tl.load(rstd + token)
    x = tl.where(inside, x * inverse, 0.0)
    g = tl.load(d_normed + first + column, inside, 0.0).to(tl.float32)
    g = (g - tl.sum(g) / WIDTH - x * (tl.sum(g * x) / WIDTH)) * inverse
    if ADDS:
        g += tl.load(d_total + first + column, inside, 0.0)
    tl.store(d_residual + first + column, g, inside)
    if DROPS:
        g = tl.where(is_kept(seed, first.to(tl.uint32) + column, threshold), g * scale, 0.0)
    tl.store(d_h + first + column, g.to(d_h.dtype.element_ty), inside)


@triton.jit
def _half_norm(a, b, inside, eps, WIDTH: tl.constexpr):
    """Both halves of rows, normed together, and the inverse deviation."""
    center = (tl.sum(a, 1) + tl.sum(b, 1)) / WIDTH
    a = tl.where(inside, a - center[:, None], 0.0)
    b = tl.where(inside, b - center[:, None], 0.0)
    inverse = 1 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / WIDTH + eps)
    return a * inverse[:, None], b * inverse[:, None], inverse


@triton.jit
def norm_rotate_forward(
    qkv, q_weight, k_weight, cos, sin, out, eps,
    HEADS: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Queries and keys normed over the head dimension and rotated. A program is one token."""
    token = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < 2 * HEADS) & (column < HALF)
    at = row * 2 * HALF + column
    x = qkv + token * 6 * HEADS * HALF + at
    a = tl.load(x, inside, 0.0).to(tl.float32)
    b = tl.load(x + HALF, inside, 0.0).to(tl.float32)
    a, b, _ = _half_norm(a, b, inside, eps, 2 * HALF)
    is_q, is_k = inside & (row < HEADS), inside & (row >= HEADS)
    weight_a = tl.load(q_weight + column, is_q, 0.0) + tl.load(k_weight + column, is_k, 0.0)
    a *= weight_a.to(tl.float32)
    weight_b = tl.load(q_weight + HALF + column, is_q, 0.0)
    b *= (weight_b + tl.load(k_weight + HALF + column, is_k, 0.0)).to(tl.float32)
    c = tl.load(cos + token * HALF + column, column < HALF, 0.0)
    s = tl.load(sin + token * HALF + column, column < HALF, 0.0)
    to = out + token * 4 * HEADS * HALF + at
    tl.store(to, (a * c - b * s).to(out.dtype.element_ty), inside)
    tl.store(to + HALF, (b * c + a * s).to(out.dtype.element_ty), inside)


@triton.jit
def norm_rotate_backward(
    qkv, q_weight, k_weight, cos, sin, d_q, d_k, d_v, d_qkv, d_weights, tokens, eps,
    HEADS: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of the whole qkv, and of both weights by program, to be summed in order."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < 2 * HEADS) & (column < HALF)
    is_q, is_k = inside & (row < HEADS), inside & (row >= HEADS)
    weight_a = tl.load(q_weight + column, is_q, 0.0) + tl.load(k_weight + column, is_k, 0.0)
    weight_b = tl.load(q_weight + HALF + column, is_q, 0.0)
    weight_b += tl.load(k_weight + HALF + column, is_k, 0.0)
    weight_a, weight_b = weight_a.to(tl.float32), weight_b.to(tl.float32)
    sum_a = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_b = tl.zeros((ROWS, BLOCK), tl.float32)
    size: tl.constexpr = 2 * HEADS * HALF
    at = row * 2 * HALF + column
    token = tl.program_id(0)
    while token < tokens:
        first = token.to(tl.int64) * size
        x = qkv + 3 * first + at
        a = tl.load(x, inside, 0.0).to(tl.float32)
        b = tl.load(x + HALF, inside, 0.0).to(tl.float32)
        a, b, inverse = _half_norm(a, b, inside, eps, 2 * HALF)
        of_q, of_k = d_q + first + at, d_k + first + at - size
        y_a = tl.load(of_q, is_q, 0.0) + tl.load(of_k, is_k, 0.0)
        y_b = tl.load(of_q + HALF, is_q, 0.0) + tl.load(of_k + HALF, is_k, 0.0)
        y_a, y_b = y_a.to(tl.float32), y_b.to(tl.float32)
        c = tl.load(cos + token * HALF + column, column < HALF, 0.0)
        s = tl.load(sin + token * HALF + column, column < HALF, 0.0)
        g_a, g_b = y_a * c + y_b * s, y_b * c - y_a * s
        sum_a += g_a * a
        sum_b += g_b * b
        g_a *= weight_a
        g_b *= weight_b
        center = ((tl.sum(g_a, 1) + tl.sum(g_b, 1)) / (2 * HALF))[:, None]
        slope = ((tl.sum(g_a * a, 1) + tl.sum(g_b * b, 1)) / (2 * HALF))[:, None]
        to = d_qkv + 3 * first + at
        kind = d_qkv.dtype.element_ty
        tl.store(to, ((g_a - center - a * slope) * inverse[:, None]).to(kind), inside)
        tl.store(to + HALF, ((g_b - center - b * slope) * inverse[:, None]).to(kind), inside)
        # Values pass: their gradient is laid beside the others.
        of_v = d_v + first + at
        tl.store(to + 2 * size, tl.load(of_v, is_q, 0.0).to(kind), is_q)
        tl.store(to + 2 * size + HALF, tl.load(of_v + HALF, is_q, 0.0).to(kind), is_q)
        token += tl.num_programs(0)
    to = d_weights + tl.program_id(0) * 4 * HALF + tl.arange(0, BLOCK)
    there = tl.arange(0, BLOCK) < HALF
    tl.store(to, tl.sum(tl.where(is_q, sum_a, 0.0), 0), there)
    tl.store(to + HALF, tl.sum(tl.where(is_q, sum_b, 0.0), 0), there)
    tl.store(to + 2 * HALF, tl.sum(tl.where(is_k, sum_a, 0.0), 0), there)
    tl.store(to + 3 * HALF, tl.sum(tl.where(is_k, sum_b, 0.0), 0), there)


@triton.jit
def swiglu_forward(up_gate, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """out = up * silu(gate) of [up | gate]. A program is a part of one token."""
    token, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, x = column < WIDTH, up_gate + token * 2 * WIDTH + column
    up, gate = (
        tl.load(x, inside, 0.0).to(tl.float32),
        tl.load(x + WIDTH, inside, 0.0).to(tl.float32),
    )
    y = up * gate * tl.sigmoid(gate)
    tl.store(out + token * WIDTH + column, y.to(out.dtype.element_ty), inside)


@triton.jit
def swiglu_backward(up_gate, d_out, d_up_gate, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    token, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, at = column < WIDTH, token * 2 * WIDTH + column
    up = tl.load(up_gate + at, inside, 0.0).to(tl.float32)
    gate = tl.load(up_gate + at + WIDTH, inside, 0.0).to(tl.float32)
    g = tl.load(d_out + token * WIDTH + column, inside, 0.0).to(tl.float32)
    open_ = tl.sigmoid(gate)
    d_gate = g * up * open_ * (1 + gate * (1 - open_))
    kind = d_up_gate.dtype.element_ty
    tl.store(d_up_gate + at, (g * gate * open_).to(kind), inside)
    tl.store(d_up_gate + at + WIDTH, d_gate.to(kind), inside)


@triton.jit
def _log_shares(
    logits, counts, channels, targets, token,
    CHANNELS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """log softmax and soft targets of one token, (ROWS, BLOCK), and which of them are real."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    real, known = row < tl.load(channels + token), column < CLASSES
    inside = real & (row < CHANNELS) & known
    first = token * CHANNELS + row
    x = tl.load(logits + first * CLASSES + column, inside, 0.0).to(tl.float32)
    x = tl.where(known, x, -float("inf"))
    x -= tl.max(x, 1)[:, None]
    x = tl.where(known, x - tl.log(tl.sum(tl.exp(x), 1))[:, None], 0.0)
    count = tl.load(counts + first, row < CHANNELS, 0).to(tl.int32)
    count = tl.minimum(count, CLASSES - 1)
    soft = tl.load(targets + count * CLASSES + column, inside, 0.0).to(tl.float32)
    return x, soft, inside


@triton.jit
def spike_loss_forward(
    logits, counts, channels, targets, loss,
    CHANNELS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Softened cross-entropy of one token, summed over its real channels. A program is a token."""
    token = tl.program_id(0).to(tl.int64)
    x, soft, inside = _log_shares(
        logits, counts, channels, targets, token, CHANNELS, CLASSES, ROWS, BLOCK
    )
    tl.store(loss + token, -tl.sum(tl.sum(tl.where(inside, soft * x, 0.0), 1), 0))


@triton.jit
def spike_loss_backward(
    logits, counts, channels, targets, d_loss, d_logits,
    CHANNELS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    x, soft, inside = _log_shares(
        logits, counts, channels, targets, token, CHANNELS, CLASSES, ROWS, BLOCK
    )
    grad = tl.exp(x) * tl.sum(soft, 1)[:, None] - soft
    grad = tl.where(inside, grad * tl.load(d_loss + token), 0.0)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    at = (token * CHANNELS + row) * CLASSES + column
    kind = d_logits.dtype.element_ty
    tl.store(d_logits + at, grad.to(kind), (row < CHANNELS) & (column < CLASSES))

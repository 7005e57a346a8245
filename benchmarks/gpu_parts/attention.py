"""Attention alone, forward and backward: bodies x windows, in rows of 16,384 tokens."""

import torch
from gpu_parts.common import DEVICE, Table, read_box, seconds_of

from ndt3_dist import log
from ndt3_dist.errors import Unsupported
from ndt3_dist.model.attention import attend, choose_body

BODIES = "flash", "varlen", "sdpa", "blocked", "reference"


def row(body: str, length: int, tokens: int, heads: int, head_dim: int) -> tuple[str, ...]:
    """Milliseconds and TFLOP/s, over the causal half; or why there are none."""
    try:
        choose_body(body, torch.device(DEVICE), torch.bfloat16)
    except Unsupported:
        return ("not here",)
    seqlens = [length] * (tokens // length)
    shape = 3, sum(seqlens), heads, head_dim
    cu = torch.arange(0, shape[1] + 1, length, dtype=torch.int32, device=DEVICE)
    qkv = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    flops = 6 * sum(n * (n + 1) for n in seqlens) * heads * head_dim

    def step():
        q, k, v = qkv
        attend(q, k, v, cu, seqlens, 0.0, body).sum().backward()
        qkv.grad = None

    try:
        took = seconds_of(step, 10 if DEVICE == "cuda" else 1)
    except torch.OutOfMemoryError:
        return ("no memory",)
    return f"{took * 1e3:.2f}", f"{flops / took / 1e12:.2f}"


def main() -> None:
    box = read_box(__doc__)
    lengths, tokens = ([100, 400], 400) if box.short else ([100, 500, 803, 2048, 4096], 16384)
    heads, head_dim = (2, 64) if box.short else (16, 128)
    log.say(f"{heads} heads of {head_dim}, bf16, without dropout")
    table = Table("window  body       ms        TFLOP/s")
    for length in lengths:
        for body in BODIES:
            cells = row(body, length, tokens, heads, head_dim) if box.has(5) else ("out of time",)
            table.add(length, body, *cells)


if __name__ == "__main__":
    log.run_program(main)

"""Training steps of 45M and 350M: kernels, recomputed activations, torch.compile, fp8; two batches.

Bodies: our fused kernels; torch.compile; compiled with products in 8 bits, one scale a tensor or a
row.
"""

import importlib.util

import torch
from gpu_parts.common import (
    DEVICE,
    Box,
    Table,
    config_of,
    measure,
    peak,
    read_box,
    release,
    training_step,
)

from ndt3_dist import log
from ndt3_dist.engines.fp8 import use_fp8
from ndt3_dist.model.example import windows
from ndt3_dist.model.flops import step_flops
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens

WINDOWS = {"45M": (40, 160), "350M": (20, 60)}
"""Of 803 tokens."""
COMPILING = 45
"""Seconds that the first compiled steps may take."""


FP8 = ("tensorwise", "rowwise")


def ways(box: Box) -> list[tuple[str, int, str, bool]]:
    """Size, windows, body, recomputed; what takes longest to begin comes last."""
    plain = [
        (size, count, "kernels", recompute)
        for size in box.sizes
        for recompute in (False, True)
        for count in ((1,) if box.short else WINDOWS[size])
    ]
    eight = FP8 if importlib.util.find_spec("torchao") else ()
    if box.short:  # torch.compile takes longer than all of it
        return plain + [(box.sizes[0], 1, body, False) for body in eight[:1]]
    compiled = [(s, WINDOWS[s][1], "compiled", r) for r in (False, True) for s in box.sizes]
    return plain + compiled + [(box.sizes[-1], WINDOWS["350M"][1], e, False) for e in eight]


def row(size: str, count: int, body: str, recompute: bool, box: Box, best: float) -> tuple:
    """Cells behind the first: what a way to train costs."""
    config = config_of(size, box.short)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = NDT3(config.ndt3)
    model.recompute = recompute
    if body in FP8:
        use_fp8(model, body, torch.device(DEVICE))
    arrays = windows(config.ndt3, count)
    step = training_step(model, config, arrays)
    if body != "kernels" and not box.short:
        model.compile_blocks()
    took, memory = measure(step)
    tokens = PackedTokens.from_numpy(arrays)
    slots = len(tokens.spike_slot), len(tokens.covariate_slot)
    needed, ran = step_flops(config.ndt3, tokens.seqlens, *slots, recompute)
    rate, shares = tokens.num_tokens / took, [f"{f / took / best:.1%}" for f in (needed, ran)]
    return tokens.num_tokens, f"{took * 1e3:.1f}", f"{rate:,.0f}", *shares, memory


def main() -> None:
    box = read_box(__doc__)
    best = peak()
    log.say("forward, backward, clipping, AdamW; dropout as in the config; most GiB held")
    table = Table(
        "size   body        activations  tokens   ms       tokens/s   MFU     HFU     GiB"
    )
    for size, count, body, recompute in ways(box):
        name = size, body, "recomputed" if recompute else "kept"
        if not box.has(8 if body == "kernels" else COMPILING):
            table.add(*name, "out of time")
            continue
        try:
            cells = row(size, count, body, recompute, box, best)
        except torch.OutOfMemoryError:
            cells = ("no memory",)
        table.add(*name, *cells)
        release()


if __name__ == "__main__":
    log.run_program(main)

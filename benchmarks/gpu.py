"""What a GPU makes of the model: attention bodies, tokens/s, MFU and peak memory, in one call.

Two tables. Attention, forward and backward: bodies x window lengths, packed into rows of 4,096
tokens. Training steps in bf16 (forward, backward, clipping, AdamW on fp32 masters) of 45M and 350M
with and without compilation and recomputed activations. On a machine without a GPU it runs a short
form on the CPU, to show that it works.

Example:
    python benchmarks/gpu.py --minutes 9
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.errors import Unsupported
from ndt3_dist.model.attention import attend, choose_body
from ndt3_dist.model.flops import peak_bf16, step_flops
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, matmul_rate, save
from train_step import windows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROW = 4096
COLUMNS = ("config", "tokens", "compile", "recompute", "ms", "tokens/s", "MFU", "HFU", "peak GiB")


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after two that warm up."""
    found = []
    for number in range(repeats + 2):
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]


def attention_rows(heads: int, head_dim: int, lengths: list[int], row: int) -> list[dict]:
    """One row a body and window length; FLOP over the causal half."""
    table = []
    for length in lengths:
        seqlens = [length] * (row // length)
        tokens = sum(seqlens)
        cu = torch.arange(0, tokens + 1, length, dtype=torch.int32, device=DEVICE)
        shape = (3, tokens, heads, head_dim)
        qkv = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        flops = 6 * sum(n * (n + 1) for n in seqlens) * heads * head_dim
        for body in ("flash", "varlen", "sdpa", "blocked", "reference"):
            try:
                choose_body(body, torch.device(DEVICE), torch.bfloat16)
            except Unsupported:
                table.append({"window": length, "body": body, "ms": "not here", "TFLOP/s": ""})
                continue

            def step(body=body, cu=cu, seqlens=seqlens, qkv=qkv):
                q, k, v = qkv
                attend(q, k, v, cu, seqlens, 0.0, body).sum().backward()
                qkv.grad = None

            try:
                took = seconds_of(step, 10 if DEVICE == "cuda" else 1)
            except torch.OutOfMemoryError:
                table.append({"window": length, "body": body, "ms": "no memory", "TFLOP/s": ""})
                continue
            rate = f"{flops / took / 1e12:.2f}"
            table.append(
                {"window": length, "body": body, "ms": f"{took * 1e3:.2f}", "TFLOP/s": rate}
            )
    return table


def step_row(
    name: str, overrides: list[str], count: int, compiled: bool, recompute: bool, peak: float
) -> dict:
    """Tokens/s, MFU and memory of one way to train."""
    config = load_config(PretrainConfig, find_file(f"{name}.yaml", "configs"), overrides)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = NDT3(config.ndt3)
    optimizer = PlainOptimizer(model, config.optim, "bf16")
    model.recompute = recompute
    if compiled:
        model.compile_blocks()
    arrays = windows(config.ndt3, count)
    tokens = PackedTokens.from_numpy(arrays, DEVICE)
    counts = int(arrays["spike_channels"].sum()), int(arrays["covariate_valid"].sum())

    def step():
        model(tokens, *counts).loss.backward()
        optimizer.step(config.optim.lr)

    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took = seconds_of(step, 8 if DEVICE == "cuda" else 1)
    needed, ran = step_flops(
        config.ndt3, tokens.seqlens, len(tokens.spike_slot), len(tokens.covariate_slot), recompute
    )
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if DEVICE == "cuda" else ""
    return {
        "config": name,
        "tokens": tokens.num_tokens,
        "compile": "yes" if compiled else "",
        "recompute": "yes" if recompute else "",
        "ms": f"{took * 1e3:.1f}",
        "tokens/s": f"{tokens.num_tokens / took:,.0f}",
        "MFU": f"{needed / took / peak:.1%}",
        "HFU": f"{ran / took / peak:.1%}",
        "peak GiB": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="begin nothing new after these")
    parser.add_argument("--short", action="store_true", help="the short form, on a GPU too")
    args = parser.parse_args()
    began, short = time.perf_counter(), args.short or DEVICE == "cpu"
    rate = matmul_rate(torch.bfloat16, DEVICE, 2048 if DEVICE == "cpu" else 8192)
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peak = peak_bf16(name) or rate
    basis = f"{peak / 1e12:.0f} TFLOP/s of the data sheet" if peak != rate else "that rate"
    text = [
        header("python benchmarks/gpu.py"),
        f"bf16 matrix products {rate / 1e12:.1f} TFLOP/s; MFU and HFU over {basis}",
    ]
    lengths, row = ([100, 400], 400) if short else ([100, 500, 803, 2048, 4096], 4 * ROW)
    heads, head_dim = (2, 64) if short else (16, 128)
    table = text_table(attention_rows(heads, head_dim, lengths, row))
    text.append(f"attention, forward and backward, {heads} heads of {head_dim}, bf16\n{table}")
    log.say(text[-1])
    small = ["model.layers=1", "model.dim=128", "model.heads=2", "model.feedforward=128"]
    cases = [
        (config, small if short else [], count if not short else 1, compiled, recompute)
        for config, counts in (("base_45m_200h", (40, 160)), ("big_350m_2kh", (20, 60)))
        for count in counts[: 1 if short else 2]
        for compiled, recompute in ((False, False), (True, False), (False, True), (True, True))
        if not (short and compiled)
    ]
    rows = []
    blank = dict.fromkeys(COLUMNS, "")
    for case in cases:
        if time.perf_counter() - began > 60 * args.minutes:
            rows.append({**blank, "config": "the rest: out of time"})
            break
        try:
            rows.append(step_row(*case, peak))
        except torch.OutOfMemoryError:
            rows.append({**blank, "config": case[0], "tokens": "no memory"})
        log.say(str(rows[-1]))
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    shape = "one layer of width 128 of " if short else ""
    text.append(f"training step, {shape}config, dropout as in it\n{text_table(rows)}")
    whole = "\n\n".join(text) + "\n"
    log.say(f"\n{whole}\n{save('gpu', whole)}" if not short else whole)


if __name__ == "__main__":
    log.run_program(main)

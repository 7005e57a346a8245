"""Milliseconds a bin of decoding as it arrives, beside the least that the machine allows.

Random weights, 96 channels, two covariates, 100 bins of context, the window full; ways in turn in
one process, a bin each. *floor*: reading the weights of all blocks once, in the way's type, at the
rate that this machine reads memory. *plain*: torch's own layers in the same model, keys and values
joined to those before with every bin. Deviation: of predicted covariates from those of a forward
pass in float32 over the same bins, before the window is full, over their spread.

Example:
    python benchmarks/decode.py --sizes 45M --bins 300
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.model.linear import CPU_HAS_BF16
from ndt3_dist.model.ndt3 import NDT3, Attention, rotate
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

CHANNELS, DIMS, CONTEXT = 96, 2, 100
SIZES = {"45M": "base_45m_200h", "350M": "big_350m_2kh"}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


class Plain:
    """Keys and values that grow by joining, layers as the model has them."""

    def __init__(self, model: NDT3, layout: Layout):
        self.model, self.layout, self.bins = model, layout, 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    @torch.no_grad()
    def step(self, counts: np.ndarray) -> torch.Tensor:
        model = self.model
        sample = {"spikes": counts, "covariates": np.full((1, DIMS), np.nan, np.float32)}
        lists = TokenLists()
        lists.add(*tokenise(sample, self.layout, model.config))
        tokens = PackedTokens.from_numpy(lists.pack())
        fresh = tokens.num_tokens
        cos, sin = model.rotary(torch.full((fresh,), self.bins))
        first = not self.keys
        if first:
            self.keys, self.values = ([torch.empty(0)] * model.config.layers for _ in "kv")

        def mix_of(layer: int):
            def mix(block: Attention, qkv: torch.Tensor) -> torch.Tensor:
                q, k, v = block.normed(qkv)
                q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
                if not first:
                    most = (CONTEXT - 1) * fresh
                    k = torch.cat((self.keys[layer][-most:], k))
                    v = torch.cat((self.values[layer][-most:], v))
                self.keys[layer], self.values[layer] = k, v
                seen = torch.ones(fresh, len(k), dtype=torch.bool).tril(len(k) - fresh)
                one = (x.transpose(0, 1)[None] for x in (q, k, v))
                return F.scaled_dot_product_attention(*one, attn_mask=seen)[0].transpose(0, 1)

            return mix

        h = model.embed(tokens, torch.zeros_like(model.sos) if self.bins else None)
        residual = torch.zeros_like(h)
        for layer, block in enumerate(model.blocks):
            h, residual = block(h, residual, mix_of(layer))
        self.bins += 1
        return model.covariate_out(h[tokens.covariate_slot])[:, 0].float()


def read_rate() -> float:
    """Bytes/s at which this machine reads memory, by the best of some sums of a gigabyte."""
    x = torch.ones(1 << 28)
    best = np.inf
    for _ in range(5):
        began = time.perf_counter()
        x.sum()
        best = min(best, time.perf_counter() - began)
    return x.nbytes / best


def ways_of(model: NDT3, layout: Layout) -> dict[tuple[str, str], Callable]:
    """(way, type) -> a step of a stream."""
    kinds = [k for k in BYTES if k != "bf16" or CPU_HAS_BF16]
    found: dict[tuple[str, str], Callable] = {
        ("ours", kind): StreamingDecoder(model, layout, CONTEXT, kind=kind).step for kind in kinds
    }
    found["plain", "fp32"] = Plain(model, layout).step
    if CPU_HAS_BF16:
        rounded = NDT3(model.config).eval()
        rounded.load_state_dict(model.state_dict())
        found["plain", "bf16"] = Plain(rounded.to(torch.bfloat16), layout).step
    return found


@torch.no_grad()
def exact(model: NDT3, layout: Layout, counts: np.ndarray) -> np.ndarray:
    """Covariates of all bins by one forward pass in float32, (bins, dims)."""
    sample = {"spikes": counts, "covariates": np.full((len(counts), DIMS), np.nan, np.float32)}
    lists = TokenLists()
    lists.add(*tokenise(sample, layout, model.config))
    tokens = PackedTokens.from_numpy(lists.pack())
    found = model.covariate_out(model.features(tokens)[tokens.covariate_slot])
    return found.view(-1, DIMS).numpy()


def rows_of(size: str, bins: int, rate: float) -> list[dict]:
    config = load_config(PretrainConfig, find_file(f"{SIZES[size]}.yaml", "configs"), []).ndt3
    torch.manual_seed(0)
    # As recordings without them have it: constraint and return tokens would be zeros.
    model = NDT3(config.model_copy(update={"context_tokens": False})).eval()
    layout = Layout.from_counts([CHANNELS], DIMS, model.config, "stream")
    counts = np.random.default_rng(0).poisson(0.3, (CONTEXT + bins, 1, CHANNELS)).astype(np.uint8)
    ways = ways_of(model, layout)
    took = {way: [] for way in ways}
    predicted = {way: [] for way in ways}
    for number, of_bin in enumerate(log.progress(counts, f"{size}, bins", len(counts))):
        for way, step in ways.items():
            began = time.perf_counter()
            found = step(of_bin)
            took[way].append(1e3 * (time.perf_counter() - began))
            if number < CONTEXT:
                predicted[way].append(found.flatten().numpy())
    truth, rows = exact(model, layout, counts[:CONTEXT, 0]), []
    weights = sum(p.numel() for p in model.blocks.parameters())
    for (way, kind), ms in took.items():
        p50, p99 = np.percentile(ms[CONTEXT:], (50, 99))
        floor = 1e3 * weights * BYTES[kind] / rate
        gap = np.abs(np.stack(predicted[way, kind]) - truth).max() / truth.std()
        rows.append(
            {
                "model": size,
                "way": way,
                "type": kind,
                "p50 ms": f"{p50:.2f}",
                "p99 ms": f"{p99:.2f}",
                "max": f"{max(ms[CONTEXT:]):.2f}",
                "floor": f"{floor:.2f}",
                "p50 / floor": f"{p50 / floor:.2f}",
                "deviation": f"{gap:.1e}",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--bins", type=int, default=400, help="timed, behind a full window")
    args = parser.parse_args()
    rate = read_rate()
    rows = [row for size in args.sizes for row in rows_of(size, args.bins, rate)]
    text = f"{header('python benchmarks/decode.py')}, {torch.get_num_threads()} threads\n"
    text += f"reads {rate / 1e9:.1f} GB/s; {args.bins} bins, {CHANNELS} channels\n\n"
    text += f"{text_table(rows)}\n"
    log.say(text)
    if args.sizes == [*SIZES]:
        log.say(str(save("decode", text)))


if __name__ == "__main__":
    log.run_program(main)

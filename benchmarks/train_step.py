"""Tokens per second of a whole training step on this CPU, beside NDT3's own code.

The step is forward, backward, clipping and AdamW of two windows of 100 bins with six patches and
two covariates (803 tokens each), dropout 0: what joel99/ndt3 was timed on (two cores of an AMD
EPYC, torch 2.13.0, SDPA in place of flash-attn). Machines differ: its figure is scaled by this
machine's rate of matrix products over that one's. The most that is possible is the step's matrix
products at that rate, and all else for nothing. bf16 is left out where the CPU has no instructions
for it.

Example:
    python benchmarks/train_step.py --steps 5
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.model.example import windows
from ndt3_dist.model.flops import step_flops
from ndt3_dist.model.linear import CPU_HAS_BF16
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, matmul_rate, save

UPSTREAM = {"fp32": (528, 195e9), "bf16": (1293, 800e9)}
"""Tokens/s of joel99/ndt3 at 45M with dropout 0, and that machine's FLOP/s of matrix products."""
GOAL = {"fp32": 1.15, "bf16": 1.7}


def training_step(config: PretrainConfig, model: NDT3, precision: str):
    """A step of two windows, which returns its seconds."""
    optimizer = PlainOptimizer(model, config.optim, precision)
    arrays = windows(config.ndt3, 2)
    tokens = PackedTokens.from_numpy(arrays)
    counts = int(arrays["spike_channels"].sum()), int(arrays["covariate_valid"].sum())

    def step() -> float:
        began = time.perf_counter()
        model(tokens, *counts).loss.backward()
        optimizer.step(config.optim.lr)
        return time.perf_counter() - began

    return step


def size(config: PretrainConfig) -> tuple[int, int]:
    """Tokens of a step, and operations of its matrix products."""
    tokens = PackedTokens.from_numpy(windows(config.ndt3, 2))
    spikes, covariates = len(tokens.spike_slot), len(tokens.covariate_slot)
    return tokens.num_tokens, step_flops(config.ndt3, tokens.seqlens, spikes, covariates)[0]


def time_steps(config: PretrainConfig, precision: str, compiled: bool, steps: int):
    """Seconds of steps, and a profile of one."""
    torch.manual_seed(0)
    model = NDT3(config.ndt3)
    if compiled:
        model.compile_blocks()
    step = training_step(config, model, precision)
    step()
    seconds = [step() for _ in range(steps)]
    with torch.profiler.profile() as profile:
        step()
    return seconds, profile


def profile_rows(profile, count: int = 8) -> list[dict]:
    """The operators with the largest share of CPU time."""
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    shown = [
        {"operator": e.key, "share": f"{e.self_cpu_time_total / total:.1%}", "calls": e.count}
        for e in events[:count]
    ]
    rest = sum(e.self_cpu_time_total for e in events[count:]) / total
    return [*shown, {"operator": "all others", "share": f"{rest:.1%}", "calls": ""}]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--config", default="base_45m_200h.yaml")
    args = parser.parse_args()
    overrides = ["model.dropout=0", "model.attention_dropout=0"]
    config = load_config(PretrainConfig, find_file(args.config, "configs"), overrides)
    (tokens, flops), rows = size(config), []
    text = [f"{header('python benchmarks/train_step.py')}, {torch.get_num_threads()} threads"]
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if precision == "bf16" and not CPU_HAS_BF16:
            text.append("bf16: this CPU has no instructions for it")
            continue
        theirs, their_rate = UPSTREAM[precision]
        for compiled in (False, True):
            name = f"{precision}, compiled" if compiled else precision
            rate = matmul_rate(dtype)
            seconds, profile = time_steps(config, precision, compiled, args.steps)
            rate = max(rate, matmul_rate(dtype))
            ours, most = tokens / statistics.median(seconds), tokens * rate / flops
            rows.append(
                {
                    "step": name,
                    "tokens/s": f"{ours:.0f}",
                    "fastest": f"{tokens / min(seconds):.0f}",
                    "slowest": f"{tokens / max(seconds):.0f}",
                    "upstream": theirs,
                    "ratio": f"{ours / theirs:.2f}",
                    "goal": GOAL[precision],
                    "matmul GFLOP/s": f"{rate / 1e9:.0f}",
                    "there": f"{their_rate / 1e9:.0f}",
                    "ratio, scaled": f"{ours / theirs * their_rate / rate:.2f}",
                    "most, scaled": f"{most / theirs * their_rate / rate:.2f}",
                }
            )
            text.append(f"{name}, share of CPU time\n{text_table(profile_rows(profile))}")
    text.insert(1, f"{tokens} tokens a step, {args.config}, dropout 0\n{text_table(rows)}")
    whole = "\n\n".join(text) + "\n"
    log.say(whole)
    if args.config == parser.get_default("config"):
        log.say(str(save("train_step", whole)))


if __name__ == "__main__":
    log.run_program(main)

"""What a training step should take on GPUs, reckoned from its traced operations, without one.

Forward and backward of the 45M and 350M configs are traced at their real sizes on torch's meta
device (`step_graph.py`): floating-point operations of the products, bytes that every other operator
reads and writes, kernels. Each group's time is the slower of what the device's arithmetic and its
memory take, and a gap for each kernel; a step is no faster than the host launches its kernels.
Three ways to run blocks: torch's operations one by one, our fused kernels, and torch.compile, whose
fusion is an ideal one: all that lies between two products as one kernel, each tensor moved once.

The efficiencies are what an H200 reached at 350M and 32,120 tokens in products, attention and a
copy, so that those groups agree there; all else is a prediction. What A100 and H100 reach was
measured nowhere, and whether a step fits their memory is not asked.

Example:
    python benchmarks/roofline.py
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from functorch.compile import min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func

from ndt3_dist import log
from ndt3_dist.config import find_file, load_config
from ndt3_dist.model.flops import CARDS, step_flops
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.summary import text_table
from ndt3_dist.train.pretrain_config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from fused_graph import fused
from hardware import header, save
from step_graph import Call, as_on_a_gpu, meta_model, traced

from ndt3_dist.model.example import windows

GROUPS = "products", "attention", "block", "embedding", "losses", "optimiser"
WAYS = "plain", "kernels", "compiled"
DEVICES = {"A100-40": "a100-40gb", "A100-80": "a100-80gb", "H100": "h100", "H200": "h200"}
"""As tables name them -> name of `model.flops.CARDS`."""
EFFICIENCY = {"products": 0.79, "memory": 0.86}
"""Share of the peaks that the H200 reached: products 86.5 ms, a copy 4.13 TB/s."""
ATTENTION = {"A100-40": 110e12, "A100-80": 110e12, "H100": 131e12, "H200": 131e12}
"""Needed FLOP/s of flash attention, windows of 803 tokens: on the H200 28.9 ms. The kernels are
those of Ampere, so that a Hopper is little faster than the A100's 110, which is assumed."""
GAP_S, HOST_S = 2e-6, 6e-6
"""Between kernels on the device; for the host to launch one (assumed)."""
OPTIMISER_BYTES, OPTIMISER_KERNELS = 52, 5
"""A parameter: its gradient to float32, clipped, AdamW, back to bf16; kernels a tensor."""
MEASURED = {
    ("big_350m_2kh", 20): ("", "86.4", "100.8"),
    ("big_350m_2kh", 40): ("276.8", "158.2", "185.6"),
    ("big_350m_2kh", 60): ("", "244.3", ""),
    ("base_45m_200h", 40): ("", "31.7", ""),
    ("base_45m_200h", 80): ("", "59.6", "73.3"),
    ("base_45m_200h", 160): ("", "115.0", ""),
}
"""Milliseconds of a step on the H200 by windows of 803 tokens, plain, with our kernels and compiled
with a break at attention (results/gpu_2026-11-27_first.txt, gpu_2026-11-28.txt)."""


@dataclass
class Cost:
    """What a group of operators takes."""

    flops: float = 0
    bytes: float = 0
    kernels: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        ours = self.flops, self.bytes, self.kernels
        theirs = other.flops, other.bytes, other.kernels
        return Cost(*(a + b for a, b in zip(ours, theirs, strict=True)))

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.bytes * times, self.kernels * times)


Costs = dict[str, Cost]
PRODUCTS = {"aten.mm", "aten.addmm", "aten.bmm"}
ROWS_ALONE = {"aten.embedding", "aten.index", "aten.index_select"}
"""Operators that read as much of their first input as they write."""


def add(*some: Costs) -> Costs:
    return {g: sum((c.get(g, Cost()) for c in some), Cost()) for g in GROUPS}


def bytes_of(tensor: torch.Tensor) -> int:
    """Of a tensor; what is expanded is there once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    number = 1
    for size, stride in sizes:
        number *= size if stride else 1
    return number * tensor.element_size()


def moved(call: Call) -> int:
    """Bytes that it reads and writes."""
    read, written = [bytes_of(t) for t in call.inputs], sum(map(bytes_of, call.outputs))
    if call.name in ROWS_ALONE:
        return 2 * written + sum(read[1:])
    if call.name == "aten.index_copy_":
        return sum(read[1:]) + read[2]
    if call.name.startswith("norm_rotate"):  # of queries, keys and values it reads the first two
        read[0] = read[0] * 2 // 3
    return sum(read) + written


def product_flops(call: Call) -> int:
    """Of a product of matrices, of which the last two inputs are."""
    a, b = call.inputs[-2:]
    return 2 * a.numel() * b.shape[-1]


def costs_of(calls: list[Call], group: str) -> Costs:
    """By group; what is neither a product nor attention is of `group`."""
    found = {g: Cost() for g in GROUPS}
    for call in calls:
        if call.is_free:
            continue
        own = "attention" if "flash_attention" in call.name else group
        flops = product_flops(call) if call.name in PRODUCTS else 0
        own = "products" if flops else own
        found[own] += Cost(flops, moved(call), 1)
    return found


def trace_of(call: Callable[[], torch.Tensor], kernels: bool) -> list[Call]:
    """Forward and backward of what gives a tensor."""
    with traced(kernels) as trace:
        out = call()
        out.backward(torch.ones_like(out))
    return trace.calls


def block_costs(config: ModelConfig, arrays: dict, kernels: bool, layers: int) -> Costs:
    """Of so many blocks, without what enters them."""
    model = meta_model(config.model_copy(update={"layers": layers}))
    tokens = PackedTokens.from_numpy(arrays, "meta")
    h = torch.empty(tokens.num_tokens, config.dim, device="meta", requires_grad=True)
    with patch.object(model, "embed", lambda tokens: h):
        return costs_of(trace_of(lambda: model.features(tokens), kernels), "block")


def compiled_costs(config: ModelConfig, arrays: dict) -> Costs:
    """Of a block as torch.compile could have it at best."""
    model = meta_model(config.model_copy(update={"layers": 2}))
    tokens, graphs = PackedTokens.from_numpy(arrays, "meta"), []
    model.pad_to = 1  # graphs of fixed shapes

    def keep(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    partition = min_cut_rematerialization_partition
    torch._dynamo.reset()
    model.compile_blocks(
        aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=partition)  # pyright: ignore
    )
    h = torch.empty(tokens.num_tokens, config.dim, device="meta", requires_grad=True)
    with as_on_a_gpu(kernels=False), patch.object(model, "embed", lambda tokens: h):
        out = model.features(tokens)
        out.backward(torch.ones_like(out))
    # The first block's backward graph comes last, and its forward graph first.
    found = {g: Cost() for g in GROUPS}
    for graph in graphs[1:3]:
        held = fused(graph)
        for name, inputs, outputs in held.alone:
            call = Call(name.removesuffix(".default"), inputs, outputs)
            flops = product_flops(call) if call.name in PRODUCTS else 0
            own = "attention" if "ndt3_dist" in name else "products" if flops else "block"
            found[own] += Cost(flops, moved(call), 1)
        found["block"] += Cost(0, sum(map(bytes_of, held.moved)), held.kernels)
    return found


def step_costs(config: ModelConfig, count: int) -> dict[str, Costs]:
    """Of a whole step by way, of so many windows of 803 tokens."""
    arrays = windows(config, count)
    tokens, found = PackedTokens.from_numpy(arrays, "meta"), {}
    features = torch.empty(
        tokens.num_tokens, config.dim, device="meta", dtype=torch.bfloat16, requires_grad=True
    )
    for way in WAYS[:2]:
        kernels, model = way == "kernels", meta_model(config)
        embed = trace_of(lambda model=model: model.embed(tokens), kernels)
        with patch.object(model, "features", lambda tokens: features):
            losses = trace_of(lambda model=model: model(tokens, 1000, 100).loss, kernels)
        one, two = (block_costs(config, arrays, kernels, n) for n in (1, 2))
        block = {g: two[g] + one[g] * -1 for g in GROUPS}
        rest = add(costs_of(embed, "embedding"), costs_of(losses, "losses"), optimiser_costs(model))
        found[way] = add(rest, one, *[block] * (config.layers - 1))
    compiled = compiled_costs(config, arrays)
    found["compiled"] = add(rest, *[compiled] * config.layers)
    attention = 3 * config.layers * sum(2 * n * (n + 1) * config.dim for n in tokens.seqlens)
    for costs in found.values():
        costs["attention"].flops = attention
    return found


def optimiser_costs(model: torch.nn.Module) -> Costs:
    parameters = list(model.parameters())
    number = sum(p.numel() for p in parameters)
    kernels = OPTIMISER_KERNELS * len(parameters)
    return {"optimiser": Cost(0, OPTIMISER_BYTES * number, kernels)}


def seconds(costs: Costs, device: str) -> dict[str, float]:
    """Of each group on a device, and of the host to launch it all."""
    card = CARDS[DEVICES[device]]
    rates = {"products": card.flops * EFFICIENCY["products"], "attention": ATTENTION[device]}
    memory = card.bandwidth * EFFICIENCY["memory"]
    found = {}
    for group, cost in costs.items():
        arithmetic = cost.flops / rates[group] if group in rates else 0.0
        found[group] = max(arithmetic, cost.bytes / memory) + cost.kernels * GAP_S
    return {**found, "host": sum(c.kernels for c in costs.values()) * HOST_S}


def step_seconds(costs: Costs, device: str) -> float:
    found = Counter(seconds(costs, device))
    host = found.pop("host")
    return max(sum(found.values()), host)


def needed_flops(config: ModelConfig, count: int) -> int:
    tokens = PackedTokens.from_numpy(windows(config, count), "meta")
    targets = len(tokens.spike_slot), len(tokens.covariate_slot)
    return step_flops(config, tokens.seqlens, *targets)[0]


def group_rows(costs: dict[str, Costs], device: str) -> list[dict]:
    """Each group's work and time by way."""
    rows = []
    for way in WAYS:
        took = seconds(costs[way], device)
        for group in GROUPS:
            cost = costs[way][group]
            rows.append(
                {
                    "way": way,
                    "group": group,
                    "kernels": f"{cost.kernels:.0f}",
                    "TFLOP": f"{cost.flops / 1e12:.1f}",
                    "GB": f"{cost.bytes / 1e9:.1f}",
                    f"{device} ms": f"{took[group] * 1e3:.1f}",
                }
            )
        rows.append({**dict.fromkeys(rows[0], ""), "way": way, "group": "host"})
        rows[-1][f"{device} ms"] = f"{took['host'] * 1e3:.1f}"
    return rows


def step_row(name: str, count: int, costs: dict[str, Costs], flops: int, device: str) -> dict:
    row, known = {"config": name, "tokens": str(803 * count), "device": device}, ("", "", "")
    if device == "H200":
        known = MEASURED[name, count]
    for way, there in zip(WAYS, known, strict=True):
        took = step_seconds(costs[way], device)
        mfu = flops / took / CARDS[DEVICES[device]].flops
        row |= {f"{way} ms": f"{took * 1e3:.1f}", "measured" + " " * WAYS.index(way): there}
        row |= {"MFU" + " " * WAYS.index(way): f"{mfu:.1%}"}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    rows, groups = [], ""
    for name, counts in (("big_350m_2kh", (20, 40, 60)), ("base_45m_200h", (40, 80, 160))):
        config = load_config(PretrainConfig, find_file(f"{name}.yaml", "configs"), []).ndt3
        for count in counts:
            costs, flops = step_costs(config, count), needed_flops(config, count)
            rows += [step_row(name, count, costs, flops, device) for device in DEVICES]
            if (name, count) == ("big_350m_2kh", 40):
                groups = text_table(group_rows(costs, "H200"))
    text = [
        f"{header('python benchmarks/roofline.py')}; a prediction: no GPU was used",
        f"350M, 40 windows of 803 tokens, by group\n{groups}",
        f"a step\n{text_table(rows)}",
    ]
    whole = "\n\n".join(text) + "\n"
    log.say(f"{whole}\n{save('roofline', whole)}")


if __name__ == "__main__":
    log.run_program(main)

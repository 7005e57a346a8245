"""What the roofline counts is what runs."""

import sys

import pytest
import torch
from torch import fx

from ndt3_dist.config import PROJECT
from ndt3_dist.model import fused as kernels
from ndt3_dist.model.flops import block_flops, head_flops

sys.path.insert(0, str(PROJECT / "benchmarks"))
from fused_graph import fused
from roofline import WAYS, Cost, moved, seconds, step_costs
from step_graph import traced

from ndt3_dist.model.example import windows


def test_products_are_those_of_the_formula_and_each_way_moves_less(tiny_model):
    config = tiny_model.model_copy(update={"context_tokens": True, "layers": 3, "dim": 128})
    arrays = windows(config, 2)
    tokens, slots = len(arrays["time"]), (len(arrays["spike_slot"]), len(arrays["covariate_slot"]))
    linear = block_flops(config, [tokens]) - config.layers * 2 * tokens * (tokens + 1) * config.dim
    # Inputs, which need no gradient of their own: covariate values and constraints.
    inputs = 2 * config.dim * (slots[1] + 3 * len(arrays["constraint_slot"]))
    products = 3 * (linear + head_flops(config, *slots)) + 2 * inputs
    costs = step_costs(config, 2)
    for way in WAYS:
        assert costs[way]["products"].flops == products
        assert costs[way]["attention"].kernels == 2 * config.layers
        assert costs[way]["attention"].flops == 3 * config.layers * 2 * 2 * 803 * 804 * config.dim
    ours, compiled, plain = (costs[w]["block"] for w in ("kernels", "compiled", "plain"))
    assert ours.bytes < compiled.bytes < plain.bytes
    assert compiled.kernels < ours.kernels < plain.kernels


def test_a_kernel_moves_each_of_its_tensors_once():
    h = torch.empty(10, 64, device="meta", dtype=torch.bfloat16)
    residual = torch.empty(10, 64, device="meta")
    with traced(kernels=True) as trace:
        kernels.add_norm(h, residual, 0.0, torch.bfloat16)
    (call,) = [c for c in trace.calls if c.name == "add_norm_forward"]
    assert moved(call) == 10 * 64 * (2 + 4 + 4 + 2) + 10 * (4 + 4)
    assert [c.name for c in trace.calls if not c.is_free] == ["add_norm_forward"]


def test_operators_between_two_products_are_one_kernel():
    graph = fx.Graph()

    def call(target, *inputs):
        node = graph.call_function(target, inputs)
        node.meta["val"] = torch.empty(4, 4)
        return node

    aten = torch.ops.aten
    x, y = graph.placeholder("x"), graph.placeholder("y")
    x.meta["val"] = y.meta["val"] = torch.empty(4, 4)
    before = call(aten.exp.default, call(aten.add.Tensor, x, y))
    product = call(aten.mm.default, before, call(aten.t.default, y))
    after = call(aten.mul.Tensor, call(aten.exp.default, product), before)
    graph.output((after,))
    found = fused(fx.GraphModule({}, graph))
    assert found.kernels == 2
    # x, y to what enters the product and is read again; its result, and what leaves.
    assert len(found.moved) == 2 + 1 + 2 + 1
    assert [name for name, *_ in found.alone] == ["aten.mm.default"]


def test_time_is_the_slower_of_arithmetic_and_memory():
    found = seconds({"products": Cost(1e12, 2e9), "block": Cost(1e15, 4.8e9 * 0.86, 1000)}, "H200")
    assert found["products"] == pytest.approx(1e12 / (989e12 * 0.79))
    assert found["block"] == pytest.approx(1e-3 + 1000 * 2e-6)
    assert found["host"] == pytest.approx(1000 * 6e-6)

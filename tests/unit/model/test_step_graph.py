"""A training step as a GPU would run it, traced without one: nothing waits, breaks or varies."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch._aot_autograd.utils import make_boxed_func

from ndt3_dist.config import PROJECT
from ndt3_dist.engines.phases import Phases
from ndt3_dist.model import varlen as varlen_module
from ndt3_dist.model.attention import attend
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.padding import Sizes, padded
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train import step as step_module
from ndt3_dist.train.step import run_micro_batches

sys.path.insert(0, str(PROJECT / "benchmarks"))
from step_graph import WAITS, as_on_a_gpu, meta_model, traced

from ndt3_dist.model.example import windows

META = torch.device("meta")


@pytest.fixture
def config(tiny_model):
    changes = {"attention_dropout": 0.1, "context_tokens": True, "layers": 1}
    return tiny_model.model_copy(update=changes)


class StepEnds(Exception):
    """Where a rank has done its micro-batches and asks the others for theirs."""


def whole_step(model, batches, monkeypatch):
    """All that a rank does in a step until ranks meet, which waits for the GPU by its nature."""

    class Engine:
        def __init__(self):
            self.model, self.phases = model, Phases()

        def micro_step(self, batch, counts, key):
            out = model(batch, *counts)
            out.loss.backward()
            return out

        def accumulated(self):
            pass

    def stop(*_):
        raise StepEnds

    windows_of = [np.arange(len(a["cu_seqlens"]) - 1) for a in batches]
    stream = SimpleNamespace(
        datasets=["a", "b"], world_size=1, datasets_of=lambda numbers: numbers % 2
    )
    train = SimpleNamespace(micro_batch=1, recompute=False, upstream_means=False)
    run = SimpleNamespace(
        stream=stream, engine=Engine(), device=META, config=SimpleNamespace(train=train)
    )
    work = SimpleNamespace(
        batches=list(enumerate(batches)),
        rows=[(i, 0, numbers) for i, numbers in enumerate(windows_of)],
        counts=[1000, 10],
    )
    monkeypatch.setattr(step_module.dist, "all_gather", stop)
    with pytest.raises(StepEnds):
        run_micro_batches(run, work, 1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_no_micro_batch_of_a_step_lets_the_host_wait(config, kernels, recompute, monkeypatch):
    model = meta_model(config)
    model.recompute = recompute
    batches = [windows(config, n, bins) for n, bins in ((2, 7), (3, 5))]
    with traced(kernels) as trace:
        whole_step(model, batches, monkeypatch)
    assert all(p.grad is not None for p in model.blocks.parameters())
    names = [call.name for call in trace.calls]
    passes = 2 * (1 + recompute)  # of two micro-batches
    assert names.count("aten._flash_attention_forward") == passes
    assert names.count("add_norm_forward") == (2 * passes if kernels else 0)
    assert names.count("aten._flash_attention_backward") == 2
    assert trace.waits() == []


def test_padded_micro_batches_of_other_windows_are_the_same_calls_of_the_same_shapes(config):
    model, found = meta_model(config), []
    contents = {"spike_slot": 500, "covariate_slot": 200, "constraint_slot": 20, "return_slot": 9}
    contents["identity_slot"] = 0
    sizes = Sizes(tokens=700, segments=8, longest=256, contents=contents)
    for count, bins in ((3, 20), (5, 13)):
        batch = PackedTokens.from_numpy(padded(windows(config, count, bins), sizes), META)
        with traced(kernels=True) as trace:
            model(batch, 1000, 10).loss.backward()
        found.append(trace.shapes())
        model.zero_grad()
    assert len(found[0]) > 150
    assert found[0] == found[1]


@pytest.fixture
def compiled():
    """Compile blocks of a model and note the graphs of their forward and backward passes."""
    torch._dynamo.reset()
    counters.clear()
    graphs = {"forward": [], "backward": []}

    def note(name):
        def compiler(graph, inputs):
            graphs[name].append((graph, inputs))
            return make_boxed_func(graph.forward)

        return compiler

    backend = aot_autograd(fw_compiler=note("forward"), bw_compiler=note("backward"))

    def compile_blocks(model):
        model.compile_blocks(backend)
        return graphs

    yield compile_blocks
    torch._dynamo.reset()


def names_of(graph) -> list[str]:
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    return [str(target).removesuffix(".default") for target in calls]


@pytest.mark.parametrize("pad_to", [0, 1024])
def test_a_compiled_block_on_flash_kernels_is_one_graph_each_way(config, compiled, pad_to):
    model = meta_model(config)
    model.pad_to = pad_to
    graphs = compiled(model)
    with as_on_a_gpu(kernels=False):
        for count, bins in ((3, 20), (2, 17), (4, 23)):
            model(model.batch(windows(config, count, bins), META), 100, 10).loss.backward()
    assert dict(counters["graph_break"]) == {}
    assert counters["stats"]["unique_graphs"] == 1
    for name, operator in (("forward", "varlen"), ("backward", "varlen_backward")):
        ((graph, inputs),) = graphs[name]
        called = names_of(graph)
        assert called.count(f"ndt3_dist.{operator}") == 1
        assert not {c.rsplit(".", 1)[0] for c in called} & WAITS
        assert any(isinstance(x, torch.SymInt) for x in inputs) == (not pad_to)


def weights_of(q, k, cu):
    """Attention's, of all segments at once, under a mask, (heads, tokens, tokens)."""
    place = torch.arange(len(q))
    segment = torch.searchsorted(cu, place.int(), right=True)
    seen = (segment[:, None] == segment) & (place[:, None] >= place)
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(~seen, float("-inf")).softmax(-1)


def test_compiled_blocks_give_the_operators_what_they_are_to_compute_from(
    config, compiled, monkeypatch
):
    """With kernels that a CPU has in their place."""
    called = []

    def forward(q, k, v, cu, longest, dropout, causal):
        assert causal
        output = torch.einsum("hqk,khd->qhd", weights_of(q, k, cu), v).contiguous()
        return output, q.new_zeros(q.shape[1], len(q)), q.new_zeros(2), q.new_zeros(1)

    def backward(grad, kept, longest, dropout, fixed, causal):
        q, k, v, cu, output, sums, *random = kept
        called.append((int(longest), dropout, fixed, causal))
        assert (output.shape, len(sums), [len(r) for r in random]) == (q.shape, q.shape[1], [2, 1])
        weights = weights_of(q, k, cu)
        of_weights = torch.einsum("qhd,khd->hqk", grad, v)
        mean = (grad * output).sum(-1).T[:, :, None]
        of_scores = weights * (of_weights - mean) * q.shape[-1] ** -0.5
        return (
            torch.einsum("hqk,khd->qhd", of_scores, k).contiguous(),
            torch.einsum("hqk,qhd->khd", of_scores, q).contiguous(),
            torch.einsum("hqk,qhd->khd", weights, grad).contiguous(),
        )

    monkeypatch.setattr(varlen_module, "forward", forward)
    monkeypatch.setattr(varlen_module, "backward", backward)
    changes = {"dropout": 0.0, "attention_dropout": 0.0, "attention_fixed_order": False}
    torch.manual_seed(0)
    model = NDT3(config.model_copy(update=changes))
    batch = model.batch(windows(config, 3, 9), torch.device("cpu"))
    expected = gradients(model, batch)
    with as_on_a_gpu(kernels=False):
        eager = gradients(model, batch)
        compiled(model)
        found = gradients(model, batch)
    assert called == [(batch.longest, 0.0, False, True)] * 2
    for ours in (eager, found):
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def gradients(model, batch):
    loss = model(batch, 1000, 10).loss
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [loss.detach(), *(g for g in grads if g is not None)]


def test_bodies_that_loop_over_segments_are_left_out_of_graphs(config, compiled):
    model = NDT3(config.model_copy(update={"attention": "sdpa"}))
    compiled(model)
    with torch.no_grad():
        model(model.batch(windows(config, 2, 5), torch.device("cpu")), 1000, 10)
    assert sum(counters["graph_break"].values()) > 0


@pytest.mark.parametrize("body", ["flash", "flash3"])
def test_packages_are_called_as_they_document(body, monkeypatch):
    called = []

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options
    ):
        assert cu_seqlens_q is cu_seqlens_k
        called.append((max_seqlen_q, max_seqlen_k, options))
        return (q + 1, None) if body == "flash3" else q + 1

    package = {"flash": "flash_attn", "flash3": "flash_attn_interface"}[body]
    module = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, package, module)
    qkv, cu = torch.zeros(3, 9, 2, 8), torch.tensor([0, 4, 9], dtype=torch.int32)
    dropout = 0.1 if body == "flash" else 0.0
    assert (attend(*qkv, cu, [4, 5], dropout, body) == 1).all()
    attend(*qkv, cu, [4, 5], dropout, body, 16, False)
    drops = {"dropout_p": 0.1} if body == "flash" else {}
    assert called == [
        (5, 5, {"causal": True, "deterministic": True, **drops}),
        (16, 16, {"causal": True, "deterministic": False, **drops}),
    ]

"""How the model runs never changes what it computes."""

import pytest
import torch
from test_ndt3 import make_sample, pack

from ndt3_dist.model.ndt3 import NDT3


def gradients(model, tokens):
    torch.manual_seed(1)
    out = model(tokens, 1000, 40)
    out.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = None
    return {"loss": out.loss.detach(), **{n: g for n, g in grads.items() if g is not None}}


@pytest.fixture
def model(tiny_model):
    torch.manual_seed(0)
    return NDT3(tiny_model.model_copy(update={"dropout": 0.2, "attention_dropout": 0.1}))


def test_recomputing_activations_is_bit_identical_with_dropout(model):
    tokens = pack([make_sample(i) for i in range(3)], model.config)
    kept = gradients(model, tokens)
    calls = []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.recompute = True
    again = gradients(model, tokens)
    assert len(calls) == 2  # forward, and once more in the backward pass
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[k], again[k]) for k in kept)


def test_compiled_blocks_agree_and_take_other_segments_without_a_new_compilation(tiny_model):
    torch.manual_seed(0)
    model = NDT3(tiny_model)
    batches = [
        pack([make_sample(i, bins) for i in range(n)], tiny_model)
        for bins, n in ((20, 3), (17, 2), (25, 4))
    ]
    eager = [gradients(model, b) for b in batches]
    model.compile_blocks("aot_eager")  # the graphs alone: making kernels takes minutes
    assert gradients(model, batches[0]).keys() == eager[0].keys()
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, expected in zip(batches, eager, strict=True):
            found = gradients(model, batch)
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert [n for n, _ in model.named_parameters()] == [
        n for n, _ in NDT3(tiny_model).named_parameters()
    ]

"""On a GPU: every attention body agrees with the reference, and the model with itself on a CPU."""

import pytest
import torch
from samples import sample_of

from ndt3_dist.data.order import generator
from ndt3_dist.errors import Unsupported
from ndt3_dist.model.attention import attend, choose_body
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SEQLENS = [803, 100, 256, 7]
BODIES = ["flash", "varlen", "sdpa", "blocked"]


def random_qkv(dtype):
    torch.manual_seed(0)
    qkv = torch.randn(3, sum(SEQLENS), 4, 64, device="cuda").to(dtype)
    borders = [0, *torch.tensor(SEQLENS).cumsum(0).tolist()]
    return list(qkv), torch.tensor(borders, dtype=torch.int32, device="cuda")


def choose(body, dtype):
    try:
        choose_body(body, torch.device("cuda"), dtype)
    except Unsupported as e:
        pytest.skip(str(e))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("body", BODIES)
def test_bodies_agree_with_the_exact_result_and_its_gradients(body, dtype, tolerance):
    choose(body, dtype)
    qkv, cu = random_qkv(dtype)
    results = []
    for name, kind in ((body, dtype), ("reference", torch.float64)):
        leaves = [x.detach().to(kind).requires_grad_() for x in qkv]
        out = attend(*leaves, cu, SEQLENS, 0.0, name)
        results.append([out, *torch.autograd.grad((out * out.detach().flip(0)).sum(), leaves)])
    for ours, exact in zip(*results, strict=True):
        assert float((ours - exact).norm() / exact.norm()) < tolerance


@pytest.mark.parametrize("body", [*BODIES, "reference"])
def test_changing_one_segment_leaves_the_others_bit_identical(body):
    choose(body, torch.bfloat16)
    (q, k, v), cu = random_qkv(torch.bfloat16)
    before = attend(q, k, v, cu, SEQLENS, 0.0, body)
    part = slice(SEQLENS[0], SEQLENS[0] + SEQLENS[1])
    for x in (q, k, v):
        x[part] = torch.randn_like(x[part])
    after = attend(q, k, v, cu, SEQLENS, 0.0, body)
    assert not torch.equal(before[part], after[part])
    before[part] = after[part]
    assert torch.equal(before, after)


@pytest.mark.parametrize("body", ["flash", "varlen"])
def test_gradients_are_the_same_every_time(body):
    choose(body, torch.bfloat16)
    qkv, cu = random_qkv(torch.bfloat16)
    found = []
    for _ in range(20):
        torch.manual_seed(0)
        leaves = [x.detach().requires_grad_() for x in qkv]
        out = attend(*leaves, cu, SEQLENS, 0.1, body)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


@pytest.mark.parametrize("body", ["flash", "varlen"])
def test_dropout_of_weights_keeps_their_mean(body):
    choose(body, torch.bfloat16)
    (q, k, v), cu = random_qkv(torch.bfloat16)
    many = torch.stack([attend(q, k, v, cu, SEQLENS, 0.5, body) for _ in range(400)]).float()
    kept = attend(q, k, v, cu, SEQLENS, 0.0, body).float()
    assert not torch.equal(many[0], many[1])
    assert float((many.mean(0) - kept).abs().mean()) < 0.02


def packed(config):
    layout, lists = Layout.from_counts([96, 64], 2, config, "s"), TokenLists()
    for number, bins in enumerate((100, 60)):
        draw = generator("gpu", number)
        spikes = draw.poisson(0.3, (bins, 160)).astype("uint8")
        covariates = draw.uniform(-1, 1, (bins, 2)).astype("float32")
        lists.add(*tokenise(sample_of(spikes, covariates), layout, config))
    return lists.pack()


def test_a_training_pass_agrees_with_the_cpu(tiny_model):
    torch.manual_seed(0)
    model = NDT3(tiny_model.model_copy(update={"attention": "auto", "dropout": 0.0}))
    found = {}
    for device in ("cpu", "cuda"):
        model.to(device)
        out = model(PackedTokens.from_numpy(packed(model.config), device), 1000, 100)
        grads = torch.autograd.grad(out.loss, list(model.parameters()), allow_unused=True)
        found[device] = [out.loss.detach().cpu(), *(g.cpu() for g in grads if g is not None)]
    for cpu, cuda in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-5)


def test_compiled_and_recomputed_blocks_agree_in_bf16(tiny_model):
    torch.manual_seed(0)
    model = NDT3(tiny_model.model_copy(update={"dropout": 0.0})).to("cuda", torch.bfloat16)
    tokens = PackedTokens.from_numpy(packed(model.config), "cuda")
    losses = [float(model(tokens, 1000, 100).loss)]
    model.recompute = True
    losses.append(float(model(tokens, 1000, 100).loss))
    model.compile_blocks()
    out = model(tokens, 1000, 100)
    out.loss.backward()
    assert losses[0] == losses[1]
    assert float(out.loss) == pytest.approx(losses[0], rel=5e-3)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

"""Attention over packed segments: bodies agree, segments never see each other or the future."""

import pytest
import torch

from ndt3_dist.errors import Unsupported
from ndt3_dist.model.attention import attend, choose_body
from ndt3_dist.model.blocked import blocked


def random_qkv(seqlens, heads=2, head_dim=16, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, sum(seqlens), heads, head_dim).to(dtype)
    cu = torch.tensor([0, *torch.tensor(seqlens).cumsum(0).tolist()], dtype=torch.int32)
    return q, k, v, cu


SEQLENS = [[7], [5, 5, 9], [1, 30, 30, 2], [12, 11, 12], [600, 256, 3]]  # blocks are of 256


@pytest.mark.parametrize("body", ["sdpa", "blocked"])
@pytest.mark.parametrize("seqlens", SEQLENS)
def test_bodies_agree_with_the_reference_with_their_gradients(body, seqlens):
    q, k, v, cu = random_qkv(seqlens)
    results = []
    for name in (body, "reference"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attend(*leaves, cu, seqlens, 0.0, name)
        results.append([out, *torch.autograd.grad((out * v.flip(0)).sum(), leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("body", ["sdpa", "blocked"])
def test_bf16_is_within_its_rounding_of_the_reference(body):
    q, k, v, cu = random_qkv([500], heads=4, head_dim=32)
    exact = attend(q.double(), k.double(), v.double(), cu, [500], 0.0, "reference")
    ours = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), cu, [500], 0.0, body)
    assert float((ours - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()) < 0.01


def test_dropout_of_weights_keeps_their_mean():
    q, k, v, cu = random_qkv([300])
    torch.manual_seed(0)
    many = [attend(q, k, v, cu, [300], 0.5, "blocked") for _ in range(400)]
    kept = attend(q, k, v, cu, [300], 0.0, "blocked")
    assert not torch.equal(many[0], kept)
    assert float((torch.stack(many).mean(0) - kept).abs().mean()) < 0.02


@pytest.mark.parametrize("body", ["sdpa", "blocked", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seqlens", SEQLENS[1:])
def test_changing_one_segment_leaves_the_others_bit_identical(body, dtype, seqlens):
    q, k, v, cu = random_qkv(seqlens, dtype=dtype)
    before = attend(q, k, v, cu, seqlens, 0.0, body)
    for changed in range(len(seqlens)):
        part = slice(int(cu[changed]), int(cu[changed + 1]))
        q2, k2, v2 = (x.clone() for x in (q, k, v))
        for x in (q2, k2, v2):
            x[part] = torch.randn_like(x[part])
        after = attend(q2, k2, v2, cu, seqlens, 0.0, body)
        others = torch.ones(len(q), dtype=torch.bool)
        others[part] = False
        assert torch.equal(before[others], after[others])
        assert not torch.equal(before[part], after[part])


@pytest.mark.parametrize("body", ["sdpa", "blocked", "reference"])
def test_attention_is_causal(body):
    q, k, v, cu = random_qkv([20])
    before = attend(q, k, v, cu, [20], 0.0, body)
    k[12:], v[12:] = 9.0, 9.0
    after = attend(q, k, v, cu, [20], 0.0, body)
    assert torch.equal(before[:12], after[:12])
    assert not torch.equal(before[12:], after[12:])


def test_flash_is_refused_where_it_cannot_run():
    with pytest.raises(Unsupported, match="a CUDA device and bf16"):
        choose_body("flash", torch.device("cpu"), torch.bfloat16)
    assert choose_body("auto", torch.device("cpu"), torch.bfloat16) == "blocked"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_blocked_attention_are_those_of_its_output(monkeypatch, dropout):
    monkeypatch.setattr("ndt3_dist.model.blocked.BLOCK", 4)
    torch.manual_seed(0)
    qkv = [torch.randn(2, 2, 10, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attention(*qkv):
        torch.manual_seed(1)  # the same weights are dropped each time
        return blocked(*qkv, dropout)

    assert torch.autograd.gradcheck(attention, qkv)
    assert torch.equal(attention(*qkv), attention(*qkv))
    if dropout:
        many = torch.stack([blocked(*qkv, dropout) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(many, blocked(*qkv, 0.0), rtol=0, atol=0.1)

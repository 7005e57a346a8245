"""Attention over packed segments: bodies agree, segments never see each other or the future."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ndt3_dist.errors import Unsupported
from ndt3_dist.model.attention import attend, choose_body
from ndt3_dist.model.blocked import blocked
from ndt3_dist.model.varlen import Varlen


def random_qkv(seqlens, heads=2, head_dim=16, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, sum(seqlens), heads, head_dim).to(dtype)
    cu = torch.tensor([0, *torch.tensor(seqlens).cumsum(0).tolist()], dtype=torch.int32)
    return q, k, v, cu


SEQLENS = [[7], [5, 5, 9], [1, 30, 30, 2], [12, 11, 12], [600, 256, 3]]  # blocks are of 128


@pytest.mark.parametrize("body", ["sdpa", "blocked"])
@pytest.mark.parametrize("seqlens", SEQLENS)
@pytest.mark.parametrize("causal", [True, False])
def test_bodies_agree_with_the_reference_with_their_gradients(body, seqlens, causal):
    q, k, v, cu = random_qkv(seqlens)
    results = []
    for name in (body, "reference"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attend(*leaves, cu, seqlens, 0.0, name, causal=causal)
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
@pytest.mark.parametrize("causal", [True, False])
def test_changing_one_segment_leaves_the_others_bit_identical(body, dtype, seqlens, causal):
    q, k, v, cu = random_qkv(seqlens, dtype=dtype)
    before = attend(q, k, v, cu, seqlens, 0.0, body, causal=causal)
    for changed in range(len(seqlens)):
        part = slice(int(cu[changed]), int(cu[changed + 1]))
        q2, k2, v2 = (x.clone() for x in (q, k, v))
        for x in (q2, k2, v2):
            x[part] = torch.randn_like(x[part])
        after = attend(q2, k2, v2, cu, seqlens, 0.0, body, causal=causal)
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
    both = attend(q, k, v, cu, [20], 0.0, body, causal=False)
    turned = attend(*(x.flip(0) for x in (q, k, v)), cu, [20], 0.0, body, causal=False)
    torch.testing.assert_close(both, turned.flip(0))  # of order it knows nothing
    assert not torch.allclose(both[:12], after[:12])


@pytest.mark.parametrize("body", ["flash3", "flash", "varlen"])
def test_flash_is_refused_where_it_cannot_run(body, monkeypatch):
    cuda = torch.device("cuda")
    with pytest.raises(Unsupported, match=f"is {body}, .*bf16 .found cpu"):
        choose_body(body, torch.device("cpu"), torch.bfloat16)
    with pytest.raises(Unsupported, match=r"found cuda, torch\.float32"):
        choose_body(body, cuda, torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(Unsupported, match="Ampere or newer"):
        choose_body(body, cuda, torch.bfloat16)


@pytest.mark.parametrize(
    ("device", "dtype", "packages", "in_torch", "body"),
    [
        ("cpu", torch.bfloat16, "23", True, "blocked"),
        ("cuda", torch.float32, "23", True, "sdpa"),
        ("cuda", torch.bfloat16, "2", True, "flash"),
        ("cuda", torch.bfloat16, "", True, "varlen"),
        ("cuda", torch.bfloat16, "", False, "sdpa"),
        ("H100", torch.bfloat16, "23", True, "flash3"),
        ("H100", torch.bfloat16, "2", True, "flash"),
        ("cuda", torch.bfloat16, "23", True, "flash"),
        ("B200", torch.bfloat16, "23", True, "flash"),
    ],
)
def test_the_body_that_is_chosen(monkeypatch, device, dtype, packages, in_torch, body):
    capability = {"H100": (9, 0), "B200": (10, 0)}.get(device, (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: in_torch)
    known = {"2": "flash_attn", "3": "flash_attn_interface"}
    found = {known[package]: object() for package in packages}
    monkeypatch.setattr("ndt3_dist.model.attention.importlib.util.find_spec", found.get)
    there = torch.device("cpu" if device == "cpu" else "cuda")
    assert choose_body("auto", there, dtype, 0.0) == body
    if body == "flash3":  # it drops no weights
        assert choose_body("auto", there, dtype, 0.1) == "flash"
        with pytest.raises(Unsupported, match=r"FlashAttention 3.*attention_dropout 0"):
            choose_body("flash3", there, dtype, 0.1)


@pytest.mark.parametrize("causal", [True, False])
def test_varlen_calls_torchs_kernels_as_their_signatures_say(causal):
    calls, kept = [], SimpleNamespace()
    kept.save_for_backward = lambda *tensors: setattr(kept, "saved_tensors", tensors)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_flash_attention" in func.name():
                given = dict(zip([a.name for a in func._schema.arguments], args, strict=False))
                calls.append((given, torch.are_deterministic_algorithms_enabled()))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode():  # tensors of a CUDA device without one
        q, k, v = torch.empty(3, 24, 2, 16, device="cuda", dtype=torch.bfloat16)
        cu = torch.empty(3, device="cuda", dtype=torch.int32)
        with Watch():
            out = attend(q, k, v, cu, [19, 5], 0.1, "varlen", causal=causal)
            assert out.shape == (24, 2, 16)
            for fixed in (True, False):
                out = Varlen.forward(kept, q, k, v, cu, 19, 0.1, fixed, causal)
                grads = Varlen.backward(kept, out)  # pyright: ignore[reportCallIssue]
                assert [g if g is None else g.shape for g in grads] == [q.shape] * 3 + [None] * 5
    assert [in_order for _, in_order in calls] == [False, False, True, False, False]
    assert not torch.are_deterministic_algorithms_enabled()
    for given, _ in calls:
        assert all(given[name] is x for name, x in (("query", q), ("key", k), ("value", v)))
        assert given["cum_seq_q"] is given["cum_seq_k"] is cu
        assert (given["max_q"], given["max_k"]) == (19, 19)
        assert (given["dropout_p"], given["is_causal"]) == (0.1, causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_blocked_attention_are_those_of_its_output(monkeypatch, dropout, causal):
    monkeypatch.setattr("ndt3_dist.model.blocked.BLOCK", 4)
    torch.manual_seed(0)
    qkv = [torch.randn(2, 2, 10, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attention(*qkv):
        torch.manual_seed(1)  # the same weights are dropped each time
        return blocked(*qkv, dropout, causal)

    assert torch.autograd.gradcheck(attention, qkv)
    assert torch.equal(attention(*qkv), attention(*qkv))
    if dropout:
        many = torch.stack([blocked(*qkv, dropout, causal) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(many, blocked(*qkv, 0.0, causal), rtol=0, atol=0.1)

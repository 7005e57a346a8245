"""The fused kernels, run by Triton's interpreter, beside the plain operations; and compiled."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ndt3_dist.model import fused
from ndt3_dist.model.losses import poisson_targets, spike_losses
from ndt3_dist.model.ndt3 import norm, rotate

pytest.importorskip("triton", reason="triton is not installed")


pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="Triton interprets or compiles; tests/gpu runs what it compiles",
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_same(found, exact):
    for a, b in zip(found, exact, strict=True):
        assert float((a.detach().double() - b.detach()).norm() / b.detach().norm()) < 1e-6


def leaves(*shapes):
    return [torch.randn(s, dtype=torch.float32, requires_grad=True) for s in shapes]


def results(outputs, inputs, weights):
    total = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("dim", [64, 96])  # a power of two, and one that is padded to it
def test_a_sum_and_its_norm(dim):
    h, residual = leaves((7, dim), (7, dim))
    weights = torch.randn(2, 7, dim)
    total = residual + h
    plain = results((total, norm(total)), (h, residual), weights)
    ours = fused.add_norm(h, residual, 0.0, torch.float32)
    assert_same(results(ours, (h, residual), weights), plain)


def test_a_norm_whose_sum_leads_nowhere():
    h, residual = leaves((5, 64), (5, 64))
    weight = [torch.randn(5, 64)]
    ours = fused.add_norm(h, residual, 0.0, torch.float32)[1:]
    plain = (norm(residual + h),)
    assert_same(results(ours, (h, residual), weight), results(plain, (h, residual), weight))


def test_dropout_drops_the_same_in_both_directions_and_another_seed_drops_others():
    h, residual = torch.ones(64, 64, requires_grad=True), torch.zeros(64, 64)
    total, _ = fused.add_norm(h, residual, 0.25, torch.float32)
    (grad,) = torch.autograd.grad(total.sum(), h, materialize_grads=True, retain_graph=True)
    kept = total > 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.02
    assert torch.equal(total[kept], torch.full_like(total[kept], 1 / 0.75))
    assert torch.equal(grad > 0, kept)
    again, _ = fused.add_norm(h, residual, 0.25, torch.float32)
    assert not torch.equal(again > 0, kept)
    torch.manual_seed(0)
    first, _ = fused.add_norm(h, residual, 0.25, torch.float32)
    torch.manual_seed(0)
    assert torch.equal(fused.add_norm(h, residual, 0.25, torch.float32)[0], first)


def test_dropout_has_no_pattern_by_row_or_column():
    h, residual = torch.ones(128, 128), torch.zeros(128, 128)
    kept = (fused.add_norm(h, residual, 0.5, torch.float32)[0] > 0).float()
    for means in (kept.mean(0), kept.mean(1)):
        assert float(means.std()) == pytest.approx(0.5 / 128**0.5, rel=0.25)
    assert abs(float(torch.corrcoef(kept.flatten().unfold(0, 128 * 127, 1)[:2])[0, 1])) < 0.03


@pytest.mark.parametrize(("heads", "width"), [(2, 64), (3, 48)])
@pytest.mark.parametrize("programs", [4, 99])  # several tokens of each program, and one
def test_queries_and_keys_are_normed_and_rotated(heads, width, programs, monkeypatch):
    monkeypatch.setattr(fused, "PROGRAMS", programs)
    inputs = leaves((9, 3, heads, width), (width,), (width,))
    qkv, q_weight, k_weight = inputs
    angle = torch.randn(9, 1, width // 2)
    turn = angle.cos(), angle.sin()
    q, k, v = qkv.unbind(1)
    plain = rotate(norm(q, q_weight), *turn), rotate(norm(k, k_weight), *turn), v
    weights = torch.randn(3, 9, heads, width)
    ours = fused.norm_rotate(qkv, q_weight, k_weight, *turn)
    assert_same(results(ours, inputs, weights), results(plain, inputs, weights))


def test_swiglu():
    (x,) = leaves((6, 2 * 96))
    weight = [torch.randn(6, 96)]
    up, gate = x.chunk(2, -1)
    assert_same(
        results((fused.swiglu(x),), (x,), weight), results((up * F.silu(gate),), (x,), weight)
    )


@pytest.mark.parametrize(("per", "classes"), [(32, 22), (5, 7)])
def test_spike_losses(per, classes):
    """Of counts up to the last class and beyond, and of tokens with no channel to all of them."""
    logits = torch.randn(per + 1, per, classes, requires_grad=True)
    counts = torch.randint(0, classes + 5, (per + 1, per), dtype=torch.uint8)
    rest = counts, torch.arange(per + 1), poisson_targets(classes)
    weight = [torch.randn(per + 1)]
    plain = results((spike_losses(logits, *rest),), (logits,), weight)
    ours = results((fused.spike_losses(logits, *rest),), (logits,), weight)
    assert_same(ours, plain)
    assert not ours[1][0].any()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_on_kernels_trains_as_one_without(recompute, tiny_model, monkeypatch):
    from test_ndt3 import make_sample, pack

    from ndt3_dist.model.ndt3 import NDT3

    config = tiny_model.model_copy(update={"dropout": 0.0, "layers": 1})
    model, tokens = NDT3(config), pack([make_sample(i, bins=5) for i in range(2)], config)
    model.recompute = recompute
    found = []
    for used in (False, True):
        monkeypatch.setattr(fused, "is_used", lambda weight, used=used: used)
        out = model(tokens, 1000, 40)
        grads = torch.autograd.grad(out.loss, list(model.parameters()), allow_unused=True)
        found.append([out.loss, *(g for g in grads if g is not None and g.any())])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_all_kernels_compile_for_ampere_and_hopper_without_a_gpu():
    script = Path(__file__).with_name("compile_kernels.py")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 16
    for name, _, registers, spilled in rows:
        assert int(registers) <= 128, name
        assert int(spilled) == 0, name
    assert {re.sub(r"_(for|back)ward$", "", row[0]) for row in rows} == {
        "add_norm",
        "norm_rotate",
        "swiglu",
        "spike_loss",
    }

"""On a GPU: the kernels that Triton compiles agree with the plain operations, in bf16."""

import pytest
import torch
import torch.nn.functional as F

from ndt3_dist.model import fused
from ndt3_dist.model.losses import poisson_targets
from ndt3_dist.model.ndt3 import norm, rotate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TOLERANCE = 0.01
"""Relative error over a whole array: bf16 keeps 8 bits."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def leaf(*shape):
    return torch.randn(shape, device="cuda").to(torch.bfloat16).requires_grad_()


def with_gradients(call, inputs, weights, exact: bool):
    """Outputs and gradients of a call on bf16 leaves, or on their float64 copies."""
    if exact:
        inputs = [x.detach().double().requires_grad_() for x in inputs]
    outputs = call(*inputs)
    total = sum((o.double() * w).sum() for o, w in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(total, inputs)]


def assert_near(ours, plain):
    for a, b in zip(ours, plain, strict=True):
        assert float((a.detach().double() - b).norm() / b.norm()) < TOLERANCE


@pytest.mark.parametrize("width", [1024, 2048, 96])
def test_a_sum_and_its_norm(width):
    inputs = leaf(5000, width), leaf(5000, width)
    weights = torch.randn(2, 5000, width, device="cuda", dtype=torch.float64)

    def ours(h, residual):
        return fused.add_norm(h, residual.float(), 0.0, torch.bfloat16)

    def plain(h, residual):
        return residual + h, norm(residual + h)

    found = with_gradients(ours, inputs, weights, exact=False)
    assert_near(found, with_gradients(plain, inputs, weights, exact=True))


@pytest.mark.parametrize(("heads", "width"), [(16, 128), (16, 64), (3, 48)])
def test_queries_and_keys_are_normed_and_rotated(heads, width):
    inputs = leaf(5000, 3, heads, width), leaf(width), leaf(width)
    angle = torch.randn(5000, 1, width // 2, device="cuda")
    cos, sin = angle.cos(), angle.sin()
    weights = torch.randn(3, 5000, heads, width, device="cuda", dtype=torch.float64)

    def ours(*inputs):
        return fused.norm_rotate(*inputs, cos, sin)

    def plain(qkv, q_weight, k_weight):
        turn = cos.double(), sin.double()
        q, k, v = qkv.unbind(1)
        return rotate(norm(q, q_weight), *turn), rotate(norm(k, k_weight), *turn), v

    found = with_gradients(ours, inputs, weights, exact=False)
    assert_near(found, with_gradients(plain, inputs, weights, exact=True))


def test_swiglu():
    inputs = (leaf(5000, 2 * 2048),)
    weights = torch.randn(1, 5000, 2048, device="cuda", dtype=torch.float64)

    def plain(x):
        up, gate = x.chunk(2, -1)
        return (up * F.silu(gate),)

    found = with_gradients(lambda x: (fused.swiglu(x),), inputs, weights, exact=False)
    assert_near(found, with_gradients(plain, inputs, weights, exact=True))


def test_dropout_drops_the_same_in_both_directions_and_repeats_by_seed():
    h = torch.ones(4096, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    residual = torch.zeros(4096, 1024, device="cuda")
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        total, _ = fused.add_norm(h, residual, 0.1, torch.bfloat16)
        (grad,) = torch.autograd.grad(total.sum(), h)
        assert torch.equal(grad > 0, total > 0)
        found.append(total.detach())
    assert torch.equal(*found)
    assert abs(float((found[0] > 0).float().mean()) - 0.9) < 1e-3


def test_gradients_are_the_same_every_time():
    inputs = leaf(20000, 3, 16, 128), leaf(128), leaf(128)
    angle = torch.randn(20000, 1, 64, device="cuda")
    found = []
    for _ in range(5):
        out = fused.norm_rotate(*inputs, angle.cos(), angle.sin())
        found.append(torch.autograd.grad(sum(o.float().square().sum() for o in out), inputs))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_spike_losses():
    logits = leaf(5000, 32, 22)
    counts = torch.randint(0, 27, (5000, 32), dtype=torch.uint8, device="cuda")
    channels = torch.randint(1, 33, (5000,), device="cuda")
    targets = poisson_targets(22).cuda()
    weights = torch.randn(1, 5000, device="cuda", dtype=torch.float64)

    def plain(logits):
        soft = targets.double()[counts.clamp(max=21).int()]
        real = torch.arange(32, device="cuda") < channels[:, None]
        return ((-(soft * logits.log_softmax(-1)).sum(-1) * real).sum(-1),)

    def ours(logits):
        return (fused.spike_losses(logits, counts, channels, targets),)

    found = with_gradients(ours, (logits,), weights, exact=False)
    assert_near(found, with_gradients(plain, (logits,), weights, exact=True))

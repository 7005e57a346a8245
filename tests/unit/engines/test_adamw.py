"""Clipping inside the optimiser: torch's own, in float64, and no step where there is no norm."""

import math

import pytest
import torch

from ndt3_dist.engines.adamw import CHUNK, ClippedAdamW, squares

OPTIONS = {"lr": 0.1, "weight_decay": 0.01}


def parameters(gradient_scale=1.0):
    torch.manual_seed(0)
    found = [torch.nn.Parameter(torch.randn(n)) for n in (3, 1000)]
    for p in found:
        p.grad = torch.randn_like(p) * gradient_scale
    return found


def clipped(params, **changes):
    call = {"clip": 1.0, "partitioned": False, "scale": 1.0, "device": "cpu", **changes}
    return ClippedAdamW(params, **call, **OPTIONS)


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_it_is_torchs_clipping_and_adamw(size):
    ours, theirs = parameters(size), parameters(size)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.AdamW(theirs, **OPTIONS).step()
    optimizer = clipped(ours)
    optimizer.step()
    assert optimizer.norm == pytest.approx(norm.item(), rel=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_that_are_means_over_ranks_become_sums():
    ours, theirs = parameters(), parameters(3.0)
    optimizer = clipped(ours, scale=3.0)
    optimizer.step()
    other = clipped(theirs)
    other.step()
    assert optimizer.norm == pytest.approx(other.norm, rel=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "skip"])
def test_no_step_without_a_norm_or_when_told(bad):
    ours = parameters()
    optimizer = clipped(ours)
    if bad == "skip":
        optimizer.skip = True
    else:
        ours[1].grad[5] = bad
    before = [p.clone() for p in ours]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, before, strict=True))
    assert math.isfinite(optimizer.norm) == (bad == "skip")


def test_the_sum_of_squares_hardly_hangs_on_how_gradients_are_parted():
    x = torch.randn(3 * CHUNK["cpu"] + 17) * 1e-3
    whole = squares(x).item()
    parts = sum(squares(part).item() for part in x.split(1001))
    assert whole == pytest.approx(parts, rel=1e-13)
    assert whole == pytest.approx((x.double() ** 2).sum().item(), rel=1e-13)

"""Penalties by contiguous folds: features and targets may have any mean."""

import numpy as np
import pytest

from ndt3_dist.evaluate.penalties import Candidate, choose


@pytest.mark.parametrize("mean", [0.0, 3e4])
def test_a_large_mean_changes_nothing(mean):
    """Products of float32 would keep no digit of what varies about it."""
    draw = np.random.default_rng(0)
    x = draw.poisson(2.0, (4000, 30)).astype(np.float32)
    y = x @ draw.normal(size=(30, 2)) + draw.normal(scale=8.0, size=(4000, 2))
    candidates = [Candidate(0, np.full(30, p)) for p in (0.1, 10.0, 1e3, 1e5)]
    best, r2, weights, offset = choose(x, y, candidates, 5, 10)
    shifted = choose(x, y + mean, candidates, 5, 10)
    assert shifted[0] == best
    assert shifted[1] == pytest.approx(r2, abs=1e-6)
    np.testing.assert_allclose(shifted[2], weights, atol=1e-5)
    np.testing.assert_allclose(shifted[3], offset + mean, rtol=1e-6, atol=1e-4)


def test_it_is_the_normal_equations_of_all_rows():
    draw = np.random.default_rng(1)
    x = (draw.normal(size=(500, 6)) + 5).astype(np.float32)
    y = draw.normal(size=(500, 1)) + x[:, :1] - 40
    candidates = [Candidate(2, np.array([1.0, 2.0, 3.0, 4.0]))]
    _, _, weights, offset = choose(x, y, candidates, 5, 3)
    some, mean = x[:, 2:].astype(float), x[:, 2:].mean(0, dtype=float)
    gram = (some - mean).T @ (some - mean) + np.diag(candidates[0].penalties)
    expected = np.linalg.solve(gram, (some - mean).T @ (y - y.mean(0)))
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    np.testing.assert_allclose(offset, y.mean(0) - mean @ expected, atol=1e-4)

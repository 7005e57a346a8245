"""Scores of sums over any division of the rows are those of all rows, by formulas of others."""

import itertools
import math

import numpy as np
import pytest

from ndt3_dist.data.order import generator
from ndt3_dist.evaluate.metrics import (
    R2,
    Accuracy,
    BitsPerSpike,
    PearsonR,
    bits_per_spike,
    r2_scores,
    r2_variance_weighted,
)

NAN = float("nan")


def pieces(rows: int, draw) -> list[slice]:
    borders = [0, *sorted(draw.integers(0, rows, 4).tolist()), rows]
    return [slice(a, b) for a, b in itertools.pairwise(borders)]


@pytest.mark.parametrize("seed", range(6))
def test_r2_in_its_forms(seed):
    draw = generator("r2", seed)
    dims = int(draw.integers(1, 5))
    true = draw.normal(draw.normal(0, 5, dims), draw.uniform(0.1, 3, dims), (200, dims))
    guess = true + draw.normal(0, 0.5, true.shape)
    true[draw.random(true.shape) < 0.1] = NAN
    metric, sums, each = R2(), 0, []
    for part in pieces(200, draw):
        sums = sums + metric.sums(true[part], guess[part])
    errors = spreads = 0.0
    for d in range(dims):
        valid = np.isfinite(true[:, d])
        t, g = true[valid, d], guess[valid, d]
        error, spread = ((t - g) ** 2).sum(), ((t - t.mean()) ** 2).sum()
        each.append(1 - error / spread)
        errors, spreads = errors + error, spreads + spread
    valid = np.isfinite(true)
    flat = true[valid]
    expected = {"r2": 1 - errors / spreads, "r2_uniform": np.mean(each)}
    assert metric.scores(sums) == pytest.approx(expected, abs=1e-9)
    whole = 1 - ((flat - guess[valid]) ** 2).sum() / ((flat - flat.mean()) ** 2).sum()
    assert metric.pooled([sums]) == pytest.approx({"r2_flat": whole}, abs=1e-9)
    found = r2_scores(true, guess)
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-12)
    assert found["r2_flat"] == pytest.approx(whole, abs=1e-12)
    assert found["r2_per_dimension"] == pytest.approx(each, abs=1e-12)
    assert found["bins"] == np.isfinite(true).any(axis=1).sum()


def test_r2_keeps_its_digits_far_from_zero_and_leaves_constant_dimensions_out():
    draw = generator("far")
    true = np.column_stack([1e7 + draw.normal(0, 1, 500), np.full(500, 3.7)])
    guess = true + draw.normal(0, 0.3, true.shape)
    near = r2_scores(true[:, :1] - 1e7, guess[:, :1] - 1e7)
    far = r2_scores(true, guess)
    assert far["r2"] == pytest.approx(near["r2"], abs=1e-7)
    assert far["r2_uniform"] == pytest.approx(near["r2"], abs=1e-7)
    assert math.isnan(far["r2_per_dimension"][1])
    assert math.isnan(r2_scores(np.full((5, 1), NAN), np.zeros((5, 1)))["r2"])
    assert math.isnan(r2_scores(np.full((5, 2), 0.1), np.zeros((5, 2)))["r2"])


def test_bits_per_spike_are_those_of_the_benchmarks_formula():
    from scipy.stats import poisson

    draw = generator("bits")
    rates = draw.uniform(0.05, 2, (300, 7))
    counts = draw.poisson(rates).astype(np.uint8)
    metric = BitsPerSpike()
    sums = sum(metric.sums(counts[p], rates[p]) for p in pieces(300, draw))
    null = np.broadcast_to(counts.mean(0), counts.shape)
    gain = poisson.logpmf(counts, rates).sum() - poisson.logpmf(counts, null).sum()
    expected = gain / counts.sum() / np.log(2)
    assert metric.scores(sums)["bits_per_spike"] == pytest.approx(expected, abs=1e-9)
    assert math.isnan(metric.scores(metric.sums(0 * counts, rates))["bits_per_spike"])


def test_pearson_r_is_numpys():
    draw = generator("r")
    true, guess = draw.normal(2, 1, (400, 3)), draw.normal(0, 1, (400, 3))
    guess[:, 0] += true[:, 0]
    guess[:, 2] = 5.0  # of a constant nothing can be said
    true[::7, 1] = NAN
    metric = PearsonR()
    sums = sum(metric.sums(true[p], guess[p]) for p in pieces(400, draw))
    r = metric.per_dimension(sums)
    for d in (0, 1):
        valid = np.isfinite(true[:, d])
        assert r[d] == pytest.approx(np.corrcoef(true[valid, d], guess[valid, d])[0, 1], abs=1e-9)
    assert math.isnan(r[2])
    assert metric.scores(sums)["pearson_r"] == pytest.approx(r[:2].mean())


def test_accuracy_of_classes():
    draw = generator("classes")
    scores, label = draw.normal(0, 1, (500, 12)), draw.integers(0, 12, 500)
    scores[np.arange(500), label] += 1.5
    label[::9] = -1
    metric = Accuracy()
    sums = sum(metric.sums(label[p], scores[p]) for p in pieces(500, draw))
    kept = label >= 0
    order = np.argsort(-scores[kept], axis=1)
    hit = order[:, 0] == label[kept]
    found = metric.scores(sums)
    assert found["accuracy"] == pytest.approx(hit.mean())
    among = (order[:, :5] == label[kept, None]).any(axis=1)
    assert found["top5_accuracy"] == pytest.approx(among.mean())
    balanced = np.mean([hit[label[kept] == c].mean() for c in range(12)])
    assert found["balanced_accuracy"] == pytest.approx(balanced)


def test_scores_have_their_known_values():
    true = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 50.0]])
    assert r2_variance_weighted(true, true) == 1
    assert r2_variance_weighted(true, np.tile(true.mean(0), (3, 1))) == pytest.approx(0)
    assert r2_variance_weighted(true, np.zeros((3, 2))) < 0
    # The first dimension wrong, the second right: weighted by variance that is nearly 1.
    half = true.copy()
    half[:, 0] = 2
    assert r2_variance_weighted(true, half) == pytest.approx(1 - 2 / 802)
    assert r2_scores(true, half)["r2_per_dimension"] == pytest.approx([0, 1])
    assert r2_scores(true, half)["r2_uniform"] == pytest.approx(0.5)


def test_a_constant_dimension_has_no_weight():
    true = np.array([[1.0, 10.0, 5.0], [2.0, 30.0, 5.0], [3.0, 50.0, 5.0]])
    wild = true + np.array([0.1, 0.1, 100])
    varying = r2_variance_weighted(true[:, :2], wild[:, :2])
    assert r2_scores(true, wild)["r2"] == pytest.approx(varying)
    each = r2_scores(true, wild)["r2_per_dimension"]
    weights = ((true - true.mean(0)) ** 2).sum(0)
    assert r2_scores(true, wild)["r2"] == pytest.approx(np.average(each[:2], weights=weights[:2]))
    assert r2_scores(true, wild)["r2_uniform"] == pytest.approx(np.mean(each[:2]))
    still = r2_scores(true[:, 2:], wild[:, 2:])
    assert np.isnan([still["r2"], still["r2_uniform"], *still["r2_per_dimension"]]).all()


def test_the_flat_r2_forgives_what_depends_on_dimensions_means():
    true = np.array([[1.0, 10.0], [2.0, 20.0], [np.nan, 30.0]])
    means = np.array([[1.5, 20.0]] * 3)
    assert r2_variance_weighted(true, means) == pytest.approx(0)
    values = np.array([1, 2, 10, 20, 30])
    spread = ((values - values.mean()) ** 2).sum()
    flat = r2_scores(true, means)["r2_flat"]
    assert flat == pytest.approx(1 - (0.25 + 0.25 + 100 + 100) / spread)


def test_bits_per_spike_of_mean_rates_are_zero_and_of_the_true_rates_known():
    draw = np.random.default_rng(0)
    rates = np.tile([[0.2, 1.0], [1.8, 3.0]], (5000, 1))
    counts = draw.poisson(rates)
    assert bits_per_spike(counts, np.tile(counts.mean(0), (10000, 1))) == pytest.approx(0)
    per_bin = (rates * np.log2(rates / rates.mean(0))).sum() / rates.sum()
    assert bits_per_spike(counts, rates) == pytest.approx(per_bin, rel=0.03)
    assert bits_per_spike(counts, rates[::-1]) < 0
    assert np.isnan(bits_per_spike(np.zeros((3, 2)), np.ones((3, 2))))


def test_bins_that_are_not_valid_do_not_count():
    true = np.array([[1.0], [np.nan], [3.0]])
    wild = np.array([[1.0], [1e9], [3.0]])
    assert r2_variance_weighted(true, wild) == 1
    assert r2_scores(true, wild)["bins"] == 2

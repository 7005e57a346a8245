"""The benchmark's metrics against numbers that are worked out by other means.

They were also compared once with nlb_tools 0.0.4 on random arrays: equal to 3e-16.
"""

import math

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.nlb import nlb_metrics as metrics


def test_bits_per_spike_are_those_of_a_sum_by_hand():
    spikes = np.array([[[0.0, 2.0], [1.0, 0.0]], [[np.nan, 1.0], [1.0, 3.0]]])
    rates = np.array([[[0.5, 1.5], [0.25, 0.5]], [[9.0, 1.0], [2.0, 0.0]]])
    total, loss, null = 0.0, 0.0, 0.0
    mean = [2 / 3, 6 / 4]
    for y_trial, r_trial in zip(spikes.tolist(), rates.tolist(), strict=True):
        for y_bin, r_bin in zip(y_trial, r_trial, strict=True):
            for unit, (y, r) in enumerate(zip(y_bin, r_bin, strict=True)):
                if math.isnan(y):
                    continue
                r = r or 1e-9
                loss += r - y * math.log(r) + math.lgamma(y + 1)
                null += mean[unit] - y * math.log(mean[unit]) + math.lgamma(y + 1)
                total += y
    found = metrics.bits_per_spike(rates, spikes)
    assert found == pytest.approx((null - loss) / total / math.log(2), abs=1e-12)
    assert metrics.poisson_loss(rates, spikes) == pytest.approx(loss, abs=1e-12)


def test_mean_rates_score_zero_and_the_true_rates_score_what_poisson_counts_give():
    rng = np.random.default_rng(0)
    rates = np.broadcast_to(np.array([0.2, 2.0])[:, None, None], (2, 20_000, 1))
    spikes = rng.poisson(rates).astype(float)
    null = np.full(spikes.shape, spikes.mean())
    assert metrics.bits_per_spike(null, spikes) == pytest.approx(0, abs=1e-12)
    # E[y ln(r / m)] summed over both halves, over the expected spikes, in bits.
    gained = sum(r * math.log2(r / 1.1) for r in (0.2, 2.0)) / 2.2
    assert metrics.bits_per_spike(rates, spikes) == pytest.approx(gained, abs=0.02)


def test_the_velocity_decoder_is_the_ridge_that_scikit_learn_chooses():
    """0.406... is what GridSearchCV(Ridge(), alpha=logspace(-4, 0, 9)) of scikit-learn 1.9.1 gives
    for these arrays."""
    rng = np.random.default_rng(1)
    rates = rng.gamma(2, 0.3, (60, 20, 12))
    velocity = rates @ rng.normal(size=(12, 2)) + 2 * rng.normal(size=(60, 20, 2)) + 5
    velocity[3, :4] = np.nan
    groups = np.arange(60) % 2 == 0
    masks = np.column_stack([groups, ~groups])
    parts = rates[:40], velocity[:40], rates[40:], velocity[40:], masks[:40], masks[40:]
    assert metrics.velocity_r2(*parts) == pytest.approx(0.40649395022252344, abs=1e-9)


def test_psths_are_compared_behind_each_trials_own_shift():
    rng = np.random.default_rng(2)
    true = rng.gamma(2, 1, (2, 30, 4))
    psth = true.copy()
    psth[:, :5] = np.nan
    moves, trials_of = np.array([0, 4, 2, 0, 1]), [np.array([0, 1]), np.array([2, 4])]
    rates = rng.gamma(2, 1, (5, 30, 4))
    for condition, trials in enumerate(trials_of):
        for trial in trials:
            rates[trial, : 30 - moves[trial]] = true[condition, moves[trial] :]
    assert metrics.psth_r2(psth, rates, trials_of, moves) == pytest.approx(1, abs=1e-12)
    assert metrics.psth_r2(psth, rates, trials_of) < 0.9
    mean = np.concatenate([psth[0, 5:], psth[1, 5:]]).mean(axis=0)
    flat = np.broadcast_to(mean, rates.shape)
    assert metrics.psth_r2(psth, flat, trials_of) == pytest.approx(0, abs=1e-12)


def test_the_speed_of_rates_correlates_with_intervals_within_conditions():
    intervals = np.array([600.0, 700, 900, 500, 800, 650])
    kinds = np.array([0, 0, 0, 1, 1, 1.0])
    behavior = np.column_stack([kinds, kinds, kinds, intervals])
    heldout = np.zeros((6, 12, 2))
    heldout[:, :4] = np.nan
    rates = np.zeros((6, 12, 3))
    # Within a condition the speed is a line of the interval: r is -1; both begin apart.
    speed = 2 - intervals / 1000 + 5 * kinds
    rates[:, 4:, 0] = speed[:, None] * np.arange(8)
    rates[:, :4] = np.random.default_rng(0).normal(size=(6, 4, 3))  # before Set: not looked at
    assert metrics.tp_correlation(rates, heldout, behavior) == pytest.approx(-1, abs=1e-12)
    behavior[2] = np.nan
    assert metrics.tp_correlation(rates, heldout, behavior) == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r[:, :, :1], r"rates have shape \(2, 3, 1\), spikes \(2, 3, 2\)"),
        (lambda r: -r, "12 rates are negative, the least is -1: .*exponentiate"),
        (lambda r: r * np.nan, "12 rates are NaN where spikes are scored"),
    ],
)
def test_rates_that_are_none_are_refused(change, said):
    with pytest.raises(BadInput, match=said.replace("-1:", "-1;")):
        metrics.bits_per_spike(change(np.ones((2, 3, 2))), np.ones((2, 3, 2)))

"""Spikes and covariates reach the bin they belong to, to the sample, and no other."""

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import TILE, bin_covariates, bin_spikes, covariate_scales

BIN_S = 0.02
STARTS = (0.0, 7.3, 1234.56)
"""Session starts: alignment must hold on any clock."""


@pytest.mark.parametrize("start_s", STARTS)
def test_a_spike_on_an_edge_belongs_to_the_bin_that_begins_there(start_s):
    for bin_ in range(200):
        counts = bin_spikes([np.array([start_s + bin_ * BIN_S])], start_s, BIN_S, 200)
        assert counts.dtype == np.uint8
        assert np.flatnonzero(counts[:, 0]).tolist() == [bin_]


@pytest.mark.parametrize("start_s", STARTS)
def test_a_spike_just_before_an_edge_belongs_to_the_bin_that_ends_there(start_s):
    for bin_ in range(200):
        time_s = start_s + (bin_ + 1) * BIN_S - 1e-4
        counts = bin_spikes([np.array([time_s])], start_s, BIN_S, 200)
        assert np.flatnonzero(counts[:, 0]).tolist() == [bin_]


def test_spikes_before_the_first_and_after_the_last_bin_are_not_swallowed_by_them():
    times = np.array([9.0, 9.985, 9.9999, 10.005, 10.0999, 10.1, 11.0])
    counts = bin_spikes([times, np.zeros(0)], 10.0, BIN_S, 5)
    assert counts[:, 0].tolist() == [1, 0, 0, 0, 1]
    assert counts[:, 1].tolist() == [0] * 5


def test_counts_over_255_are_refused_and_never_wrap():
    many = np.linspace(1.001, 1.019, 256)
    assert bin_spikes([many[:255]], 0.0, BIN_S, 100)[50, 0] == 255
    with pytest.raises(BadInput, match=r"channel 1 has 256 spikes in the bin at 1\.000 s"):
        bin_spikes([many[:3], many], 0.0, BIN_S, 100)


@pytest.mark.parametrize("start_s", STARTS)
def test_an_impulse_sampled_faster_than_the_bins_lands_in_its_own_bin_alone(start_s):
    times = start_s + np.arange(100) / 100  # two samples a bin
    for sample in range(100):
        values = np.zeros((100, 2))
        values[sample, 1] = 1.0
        binned = bin_covariates(times, values, start_s, BIN_S, 50, 0.1)
        expected = np.zeros((50, 2), np.float32)
        expected[sample // 2, 1] = 0.5
        np.testing.assert_array_equal(binned, expected)


@pytest.mark.parametrize("start_s", STARTS)
def test_an_impulse_sampled_slower_than_the_bins_is_interpolated_to_its_neighbours(start_s):
    times = start_s + np.arange(20) * 0.05
    values = np.zeros((20, 1))
    values[4] = 1.0  # at 0.2 s, where bin 10 begins
    binned = bin_covariates(times, values, start_s, BIN_S, 45, 0.1)[:, 0]
    # Centres 0.17, 0.19, 0.21, 0.23; the line falls to 0 at 0.15 and 0.25 s.
    expected = np.zeros(45)
    expected[[8, 9, 10, 11]] = [0.4, 0.8, 0.8, 0.4]
    np.testing.assert_allclose(binned, expected, atol=1e-5)


def test_bins_see_no_sample_after_their_own_end_where_samples_are_denser():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 2, 400))
    values = rng.standard_normal((400, 2))
    before = bin_covariates(times, values, 0.0, BIN_S, 100, 0.1)
    for bin_ in (1, 17, 60, 99):
        later = values.copy()
        later[times >= bin_ * BIN_S] = 1e3
        after = bin_covariates(times, later, 0.0, BIN_S, 100, 0.1)
        filled = np.bincount((times / BIN_S).astype(int), minlength=100)[:bin_] > 0
        assert filled.mean() > 0.9
        np.testing.assert_array_equal(after[:bin_][filled], before[:bin_][filled])
        assert (after[bin_] != before[bin_]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_sample_that_is_not_finite_masks_its_bin_in_its_dimension_alone(bad):
    times = np.arange(100) / 100
    values = np.ones((100, 2))
    values[31, 0] = bad
    binned = bin_covariates(times, values, 0.0, BIN_S, 50, 0.1)
    assert np.argwhere(np.isnan(binned)).tolist() == [[15, 0]]
    assert np.isin(binned, [1.0, np.nan]).sum() == 99


def test_a_missing_sample_between_sparse_samples_masks_what_would_be_interpolated_from_it():
    times = np.arange(20) * 0.05
    values = np.ones((20, 1))
    values[4] = np.nan
    binned = bin_covariates(times, values, 0.0, BIN_S, 45, 0.1)[:, 0]
    assert np.flatnonzero(np.isnan(binned)).tolist() == [8, 9, 10, 11]


def test_gaps_longer_than_allowed_are_masked_and_shorter_ones_are_bridged():
    times = np.arange(300) / 100
    hole = ((times > 0.5) & (times < 0.8)) | ((times > 1.5) & (times < 1.58))
    values = times[:, None].copy()
    binned = bin_covariates(times[~hole], values[~hole], 0.0, BIN_S, 150, 0.1)[:, 0]
    assert np.flatnonzero(np.isnan(binned)).tolist() == list(range(26, 40))
    # Across the short hole: a ramp stays a ramp at the centres of its empty bins.
    np.testing.assert_allclose(binned[76:79], [1.53, 1.55, 1.57], atol=1e-5)


@pytest.mark.parametrize("start_s", STARTS)
def test_samples_exactly_the_longest_gap_apart_are_bridged_everywhere(start_s):
    """10 Hz behaviour under the default 100 ms: float64 times are often a hair further apart."""
    times = start_s + np.arange(100) * 0.1
    binned = bin_covariates(times, np.ones((100, 1)), start_s, BIN_S, 495, 0.1)
    assert (binned == 1).all()


def test_bins_outside_the_samples_are_masked():
    times = 1.0 + np.arange(100) / 100
    binned = bin_covariates(times, np.ones((100, 1)), 0.0, BIN_S, 150, 0.1)[:, 0]
    assert np.isnan(binned[:50]).all()
    assert (binned[50:100] == 1).all()
    assert np.isnan(binned[100:]).all()


def test_a_scale_is_the_quantile_of_absolute_finite_values():
    values = np.full((1001, 1), np.nan)
    values[:1000, 0] = np.random.default_rng(0).permutation(np.arange(-999.0, 1.0))
    scale = covariate_scales(values, 0.9)
    assert scale[0] == pytest.approx(np.quantile(np.arange(1000.0), 0.9))
    assert covariate_scales(values, 1.0)[0] == 999


def test_a_dimension_that_is_zero_or_absent_has_scale_one():
    values = np.column_stack([np.zeros(50), np.full(50, np.nan), np.full(50, 1e-12)])
    assert covariate_scales(values, 0.999).tolist() == [1.0, 1.0, 1.0]


def test_counts_of_a_long_recording_are_those_of_a_histogram():
    """Longer than what is turned about at once, and no multiple of it."""
    rng, bins = np.random.default_rng(0), 2 * TILE + 77
    times = [np.sort(rng.uniform(-1, bins * 0.02 + 1, 20_000)) for _ in range(5)]
    edges = np.arange(bins + 1) * 0.02
    expected = np.stack([np.histogram(t, edges)[0] for t in times], axis=1)
    np.testing.assert_array_equal(bin_spikes(times, 0.0, 0.02, bins), expected)

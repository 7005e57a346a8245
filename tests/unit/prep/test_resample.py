"""Covariates slower than their bins, or with jitter, against a sine whose value is known."""

import numpy as np
import pytest

from ndt3_dist.prep.binning import bin_covariates

BIN_S, BINS = 0.02, 3000
CENTRES = (np.arange(BINS) + 0.5) * BIN_S


def sine(t: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * 0.5 * t)


def camera(hz: float, jitter_s: float = 0.0) -> np.ndarray:
    times = np.arange(int(BINS * BIN_S * hz)) / hz
    return times + np.random.default_rng(0).uniform(-jitter_s, jitter_s, len(times))


def error_of(times: np.ndarray, **how) -> float:
    """Root mean square of what bins are off by at their centres."""
    found = bin_covariates(times, sine(times)[:, None], 0.0, BIN_S, BINS, 0.1, **how)[5:-5, 0]
    return float(np.sqrt(np.nanmean((found - sine(CENTRES[5:-5])) ** 2)))


def test_a_camera_of_60_hz_with_jitter_is_read_at_the_centre_of_bins():
    times = camera(60, 0.0005)
    assert error_of(times) < 0.0003
    assert error_of(times) == error_of(times, resample="linear")
    assert error_of(times, resample="mean") > 20 * error_of(times)


@pytest.mark.parametrize("hz", [25, 30, 45, 60, 120, 130, 180])
def test_rates_that_bins_do_not_divide_are_read_at_the_centre(hz):
    assert error_of(camera(hz)) < 0.003
    assert error_of(camera(hz)) < error_of(camera(hz), resample="mean") / 3


@pytest.mark.parametrize("hz", [50, 100, 150, 250, 1000])
def test_bins_that_hold_as_many_samples_each_have_their_mean(hz):
    times = camera(hz)
    values = np.random.default_rng(1).normal(size=len(times))
    bins = (np.arange(len(times)) / hz / BIN_S + 1e-6).astype(int)
    expected = np.bincount(bins, weights=values) / np.bincount(bins)
    found = bin_covariates(times, values[:, None], 0.0, BIN_S, BINS, 0.1)[:, 0]
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("hz", [50, 100])
def test_a_lost_sample_does_not_change_how_the_others_are_read(hz):
    times = camera(hz)
    values = np.random.default_rng(1).normal(size=len(times))
    whole = bin_covariates(times, values[:, None], 0.0, BIN_S, BINS, 0.1)[:, 0]
    keep = np.delete(np.arange(len(times)), [500, 900, 901, 902])
    found = bin_covariates(times[keep], values[keep, None], 0.0, BIN_S, BINS, 0.1)[:, 0]
    same = np.ones(BINS, bool)
    for lost in (500, 900, 901, 902):
        same[int(lost / hz / BIN_S + 1e-6)] = False
    np.testing.assert_array_equal(found[same], whole[same])


def test_causal_covariates_see_no_sample_beyond_the_end_of_their_bin():
    times = camera(60, 0.0005)
    values = sine(times)[:, None]
    keys = {"resample": "linear", "causal": True}
    before = bin_covariates(times, values, 0.0, BIN_S, BINS, 0.1, **keys)
    for bin_ in (10, 11, 12, 1000, 2000):
        later = values.copy()
        later[times >= (bin_ + 1) * BIN_S] = 1e3
        after = bin_covariates(times, later, 0.0, BIN_S, BINS, 0.1, **keys)
        np.testing.assert_array_equal(after[: bin_ + 1], before[: bin_ + 1])
        looks = bin_covariates(times, later, 0.0, BIN_S, BINS, 0.1)
        assert (looks[:bin_] == before[:bin_]).mean() < 1
    assert error_of(times, **keys) < 0.02


def test_a_sample_that_is_not_valid_masks_its_bin_on_a_slow_clock_too():
    times = camera(60)
    values = np.ones((len(times), 2))
    values[100, 0] = np.nan
    found = bin_covariates(times, values, 0.0, BIN_S, BINS, 0.1)
    masked = np.flatnonzero(np.isnan(found[:-1, 0]))
    assert int(times[100] / BIN_S) in masked
    assert len(masked) <= 3
    assert np.isfinite(found[:-1, 1]).all()

"""Coarse times are known for what they are; what is even is made even again, and nothing else."""

from fractions import Fraction

import numpy as np
import pytest

from ndt3_dist.readers.clocks import EDGE, PART, even_clock, slack, stored_error
from ndt3_dist.readers.matlab.mat_values import clock
from ndt3_dist.readers.nwb.nwb_covariates import not_held
from ndt3_dist.readers.spans import merge


def exact(hz, count: int, offset=0) -> list[Fraction]:
    return [offset + Fraction(k) / Fraction(hz) for k in range(count)]


def stored(times, kind=np.float32) -> np.ndarray:
    """As a float of this type holds them, widened again."""
    return np.array([float(t) for t in times], kind).astype(np.float64)


@pytest.mark.parametrize(
    ("times", "error"),
    [
        (stored(exact(100, 999)), 2.0**-20),  # float32 up to 9.98 s
        (stored(exact(100, 999, 1000)), 2.0**-14),
        (np.array(exact(100, 999), float), 2.0**-49),
        (np.array(exact(100, 999, 1_600_000_000), float), 2.0**-22),
        (np.arange(1000) / 64, 2.0**-49),  # ticks that any float holds
        (np.arange(1000.0), 2.0**-43),
        (np.r_[np.arange(999) / 64, np.nan], 2.0**-49),
        (np.zeros(0), 2.0**-1074),
        (np.zeros(9), 2.0**-1074),
        (np.array([1e300, 2.0]), float(np.spacing(1e300))),
        (np.arange(9), 2.0**-49),
    ],
)
def test_the_error_of_stored_times_is_the_spacing_of_the_narrowest_float_that_holds_them(
    times, error
):
    assert stored_error(times) == error


def test_the_error_of_several_trains_is_that_of_the_coarsest_that_holds_all():
    one, other = stored(exact(100, 999)), np.array(exact(100, 999, 1000), float)
    assert stored_error(one, other) == 2.0**-43
    assert stored_error(one, stored(exact(30_000, 99, 1000))) == 2.0**-14


def test_slack_is_the_error_between_a_millionth_and_a_twentieth():
    assert [slack(e, 0.02) for e in (0.0, 1e-5, 1.0)] == [EDGE * 0.02, 1e-5, PART * 0.02]


@pytest.mark.parametrize("hz", [25, 30, 60, 100, 130, 250, 1000, Fraction(24414, 24), "29.97"])
@pytest.mark.parametrize("offset", [0, Fraction("12.591"), 1000, 100_000])
def test_an_even_clock_is_found_within_half_a_spacing_of_what_was_stored(hz, offset):
    true = np.array(exact(hz, 20_000, offset), float)
    times = stored(exact(hz, 20_000, offset))
    error = stored_error(times)
    found = even_clock(times, error)
    assert found is not None
    assert np.abs(found.times - times).max() <= error / 2 * (1 + 1e-6)
    assert np.abs(np.diff(found.times) - found.period).max() < 1e-9
    assert np.abs(found.times - true).max() <= found.error <= PART * found.period
    assert found.period * 20_000 == pytest.approx(20_000 / float(Fraction(hz)), abs=found.error)


def test_an_even_clock_is_found_where_samples_are_missing():
    true = np.delete(np.array(exact(1000, 20_000, 2000), float), np.r_[7:19, 4000:9000, 12_345])
    times = true.astype(np.float32).astype(np.float64)
    found = even_clock(times, stored_error(times))
    assert found is not None
    np.testing.assert_allclose(found.times, true, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_uneven_by_more_than_was_lost_in_storing_is_never_moved(seed):
    """Jitter, drift, one late sample, a break of phase, two rates: all larger than a spacing."""
    rng = np.random.default_rng(seed)
    offset, hz = rng.choice([0, 1000, 20_000]), rng.choice([50, 60, 100, 1000])
    base = offset + np.arange(5000) / hz
    error = float(np.spacing(np.float32(base[-1])))
    late, k = np.zeros(5000), np.arange(5000)
    late[rng.integers(1, 4999)] = 3 * error
    for uneven in (
        rng.uniform(-1.5, 1.5, 5000) * error,
        5 * error * (k / 5000) ** 2,
        late,
        3 * error * (k >= 2500),
        8 * error * np.maximum(k - 2500, 0) / 2500,
    ):
        times = (base + uneven).astype(np.float32).astype(np.float64)
        assert even_clock(np.maximum.accumulate(times), error) is None


def test_times_that_fit_clocks_of_several_rates_are_left_as_they_are():
    """Eight steps of 128 s hold 1,000 s of samples: what lies between them cannot be known."""
    times = stored(exact(100, 100_000, Fraction("1600000003.37")))
    assert len(np.unique(times)) == 9
    assert even_clock(times, stored_error(times)) is None
    for some in (times[:2], np.zeros(9), np.array([0.0, np.nan, 2.0]), -np.arange(9.0)):
        assert even_clock(some, 1e-3) is None


def test_a_clock_of_ms_in_single_precision_is_even_again():
    """As MATLAB's single: samples at 130 Hz from 20,000 s on are up to 1 ms off."""
    ms = np.array([[float(1000 * t)] for t in exact(130, 5000, 20_000)], np.float32)
    times, error = clock(ms, "t", 1e-3)
    true = np.array(exact(130, 5000, 20_000), float)
    np.testing.assert_allclose(times, true, rtol=0, atol=1e-9)
    assert np.abs(ms[:, 0] / 1000 - true).max() > 9e-4
    assert error < 1e-4


def test_stretches_a_ms_apart_are_one_on_every_clock():
    for offset in (0, 1000, 1_600_000_000):
        edges = [offset + Fraction(k, 1000) for k in range(0, 90_000, 300)]
        spans = np.array([(float(a), float(a + Fraction(299, 1000))) for a in edges])
        assert len(merge(spans, stored_error(spans.ravel()))) == 1


def test_a_held_value_is_kept_once_a_sensor_period_on_every_clock():
    """A sensor of 9 ms on a clock of 1 ms, at rest for a fourth of the time."""
    values = np.arange(3996) // 9
    values[1998:2997] = values[1998]
    for phase in range(9):
        times = np.array([1.6e9 + phase / 7 + k / 1000 for k in range(3996)])
        kept = np.flatnonzero(not_held(times, values[:, None] * 1.0, stored_error(times)))
        assert kept.tolist() == list(range(0, 3996, 9))

"""Public sets in MATLAB files: no channel skipped, one clock, no window across trials."""

from pathlib import Path

import numpy as np
import pytest
from mat_files import rtt, trials, write_mat, xds

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import bin_covariates, count_spikes
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.read import read_recording

RECIPES = Path(__file__).resolve().parents[3] / "data_prep" / "recipes"


def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", list(overrides))


@pytest.mark.parametrize(("channels", "arrays"), [(96, ["M1"]), (192, ["M1", "S1"])])
def test_rtt_sums_all_units_and_keeps_every_channel_in_its_place(channels, arrays, tmp_path):
    values = rtt(channels)
    path = write_mat(tmp_path / "indy_20160407_02.mat", values, "7.3")
    recording = read_recording(path, recipe("odoherty_rtt"))
    assert (recording.subject, recording.session) == ("indy", "20160407_02")
    assert [(a.name, a.channels) for a in recording.arrays] == [(name, 96) for name in arrays]
    for channel, times in enumerate(recording.spike_times):
        units = [u.reshape(-1) for u in values["spikes"][channel]]
        np.testing.assert_array_equal(times, np.sort(np.concatenate(units)))
    assert [len(recording.spike_times[c]) for c in (4, 5, 7)] == [15, 10, 0]


def test_rtt_velocity_is_in_m_per_s_along_the_screen(tmp_path):
    path = write_mat(tmp_path / "indy_20160407_02.mat", rtt(), "7.3")
    recording = read_recording(path, recipe("odoherty_rtt"))
    t = recording.covariate_times + 0.002
    expected = np.column_stack([0.1 * np.cos(t), -0.2 * np.sin(t)])
    np.testing.assert_allclose(recording.covariates, expected, atol=1e-5)
    assert (recording.covariate_names, recording.covariate_unit) == (("x", "y"), "m/s")


@pytest.mark.parametrize("at_bin", [0, 3, 200])
def test_rtt_spikes_and_velocity_share_a_clock_however_late_the_first_spike_is(at_bin, tmp_path):
    """A lone spike and a lone jump of the finger in one bin, long after the recording began."""
    values, moment = rtt(), at_bin * 0.02 + 0.01
    for at in np.ndindex(values["spikes"].shape):
        values["spikes"][at] = np.zeros((0, 0))
    values["spikes"][11, 1] = np.array([100 + moment])
    jumped = np.arange(len(values["t"])) / 250 >= moment
    values["finger_pos"] = np.column_stack([0 * jumped, -1.0 * jumped, 0 * jumped])
    path = write_mat(tmp_path / "loco_20170210_03.mat", values, "7.3")
    how = recipe("odoherty_rtt")
    recording = read_recording(path, how)
    velocity = bin_covariates(
        recording.covariate_times, recording.covariates, recording.start_s, 0.02, 290, 0.1
    )
    assert np.argwhere(count_spikes(recording, 0.02, 290)).tolist() == [[at_bin, 11]]
    assert np.argwhere(velocity).tolist() == [[at_bin, 0]]
    assert velocity[at_bin, 0] == pytest.approx(0.01 / 0.02)


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize("holds", ["times", "counts"])
def test_xds_spikes_and_covariates_at_one_moment_lie_in_one_bin(version, holds, tmp_path):
    path = write_mat(tmp_path / "Jango_20150730_001.mat", xds(), version)
    recording = read_recording(path, recipe("xds", f"mat.holds={holds}"))
    velocity = bin_covariates(
        recording.covariate_times, recording.covariates, recording.start_s, 0.02, 200, 0.1
    )
    assert np.argwhere(count_spikes(recording, 0.02, 200)).tolist() == [[100, 0]]
    assert np.argwhere(velocity).tolist() == [[100, 0]]
    assert velocity[100, 0] == 1.0
    assert (recording.subject, recording.session) == ("Jango", "20150730_001")
    assert recording.start_s == pytest.approx(0.5)
    assert recording.stop_s == pytest.approx(4.5)


def test_xds_covariates_lie_side_by_side_with_their_names_and_units(tmp_path):
    path = write_mat(tmp_path / "Jango_1.mat", xds(), "7.3")
    recording = read_recording(path, recipe("xds", "covariates.path=[curs_v, EMG, force]"))
    assert recording.covariate_names == ("x", "y", "FCR", "FCU", "ECR", "fx", "fy")
    assert recording.covariate_units == ("cm/s",) * 2 + ("a.u.",) * 5
    np.testing.assert_allclose(recording.covariates[:, 3], 2 * recording.covariate_times)
    alone = read_recording(path, recipe("xds", 'covariates.path=""'))
    assert alone.covariates.shape == (0, 0)


@pytest.mark.parametrize("version", ["7", "7.3"])
def test_pyaldata_trials_are_spans_that_begin_on_a_bin(version, tmp_path):
    values = trials()
    path = write_mat(tmp_path / "Chewie_CO_20161021.mat", values, version)
    recording = read_recording(path, recipe("pyaldata"))
    assert (recording.subject, recording.session) == ("Chewie", "CO_20161021")
    assert [(a.name, a.channels) for a in recording.arrays] == [("M1", 30), ("PMd", 3)]
    np.testing.assert_allclose(recording.spans, [[0, 2.6], [2.6, 4.7], [4.7, 6.6], [6.6, 10.6]])
    counts = count_spikes(recording, 0.02, 530)
    vel = bin_covariates(
        recording.covariate_times, recording.covariates, recording.start_s, 0.02, 530, 0.1
    )
    first = 0
    for number, trial in enumerate(values["trial_data"].flat):
        bins = len(trial["vel"]) // 2
        m1 = trial["M1_spikes"][: 2 * bins].reshape(bins, 2, 30).sum(1)
        np.testing.assert_array_equal(counts[first : first + bins, :30], m1)
        # The odd bin at the end of trial 1 is dropped from both, and shifts neither.
        last = 0.0 if number == 1 else 7.0
        assert counts[first + bins - 1, 30] == last
        assert vel[first + bins - 1, 0] == pytest.approx(number + 1 + last / 2)
        np.testing.assert_allclose(vel[first : first + bins - 1], number + 1)
        first += bins
    assert first == 530


def test_no_window_of_pyaldata_holds_two_trials(tmp_path):
    how = recipe("pyaldata")
    values = trials()
    for trial in values["trial_data"].flat:
        trial["vel"] = np.random.default_rng(3).normal(size=trial["vel"].shape)
    path = write_mat(tmp_path / "Chewie_1.mat", values)
    session, samples = cut(read_recording(path, how), how, "a.mat", "0" * 64)
    assert [fields["start_bin"] for *_, fields in samples] == [0, 130, 330, 430]
    assert session.windows["train"].kept == 4
    assert session.windows["train"].rejected == {"too_short": 3}


def test_pyaldata_bins_that_do_not_divide_the_recipes_are_refused(tmp_path):
    path, how = write_mat(tmp_path / "Chewie_1.mat", trials(bin_size=0.03)), recipe("pyaldata")
    with pytest.raises(BadInput, match="30 ms"):
        cut(read_recording(path, how), how, "a.mat", "0" * 64)


def test_counts_above_255_of_a_trial_are_refused_and_never_wrapped(tmp_path):
    values, how = trials(), recipe("pyaldata")
    values["trial_data"][0, 0]["M1_spikes"][100, 4] = 256
    path = write_mat(tmp_path / "Chewie_1.mat", values)
    with pytest.raises(BadInput, match="channel 4 has 25"):
        cut(read_recording(path, how), how, "a.mat", "0" * 64)

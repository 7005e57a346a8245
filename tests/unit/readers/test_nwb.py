"""NWB files are read channel by channel; what cannot be used is refused by name in one line."""

import numpy as np
import pytest
from recordings import genuine, refusal

from ndt3_dist.prep.binning import bin_covariates, bin_spikes
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.options import CovariatesRecipe, SpikesRecipe

VELOCITY = "processing/behavior/Velocity/cursor_vel"
SPIKES_ONLY = Recipe(dataset="t")
WITH_VELOCITY = Recipe(dataset="t", covariates=CovariatesRecipe(path=VELOCITY))
TIMES = [np.array([0.5, 1.25, 3.0]), np.array([0.25, 1.0])]


def test_units_on_one_electrode_are_summed_and_silent_electrodes_keep_their_column(
    write_nwb, tmp_path
):
    units = [*TIMES, np.array([2.0])]
    path = write_nwb(tmp_path / "a.nwb", units, electrodes=[2, 2, 0])
    recording = read_nwb(path, SPIKES_ONLY)
    assert [t.tolist() for t in recording.spike_times] == [
        [2.0],
        [],
        [0.25, 0.5, 1.0, 1.25, 3.0],
        [],
    ]
    assert [(a.name, a.channels) for a in recording.arrays] == [("M1", 4)]


def test_arrays_lie_side_by_side_in_the_order_of_their_first_electrode(write_nwb, tmp_path):
    groups = ("PMd", "M1", "PMd", "M1", "M1")
    units = [[0.1 * (row + 1)] for row in range(5)]
    path = write_nwb(tmp_path / "a.nwb", units, electrodes=[4, 3, 2, 1, 0], groups=groups)
    recording = read_nwb(path, SPIKES_ONLY)
    assert [(a.name, a.channels) for a in recording.arrays] == [("PMd", 2), ("M1", 3)]
    # Electrode rows 0, 2 are PMd and 1, 3, 4 are M1; unit u sits on row 4 - u.
    np.testing.assert_allclose(np.concatenate(recording.spike_times), [0.5, 0.3, 0.4, 0.2, 0.1])


def test_units_without_electrodes_are_channels_of_one_array(write_nwb, tmp_path):
    recording = read_nwb(write_nwb(tmp_path / "a.nwb", TIMES), SPIKES_ONLY)
    assert [t.tolist() for t in recording.spike_times] == [t.tolist() for t in TIMES]
    assert [(a.name, a.channels) for a in recording.arrays] == [("units", 2)]


def test_units_are_kept_apart_where_the_recipe_says_so(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", TIMES, electrodes=[1, 1])
    by_unit = Recipe(dataset="t", spikes=SpikesRecipe(channels="unit"))
    assert len(read_nwb(path, by_unit).spike_times) == 2
    by_electrode = Recipe(dataset="t", spikes=SpikesRecipe(channels="electrode"))
    bare = write_nwb(tmp_path / "b.nwb", TIMES)
    assert "spikes.channels=unit" in refusal(bare, by_electrode)


def test_covariates_with_a_rate_are_read_on_their_own_clock(write_nwb, tmp_path):
    data = np.arange(800.0).reshape(400, 2)
    path = write_nwb(
        tmp_path / "a.nwb", TIMES, covariates=data, rate=100.0, starting_time=0.2, conversion=0.01
    )
    recording = read_nwb(path, WITH_VELOCITY)
    np.testing.assert_allclose(recording.covariate_times, 0.2 + np.arange(400) / 100)
    np.testing.assert_allclose(recording.covariates, data * 0.01)
    assert (recording.covariate_names, recording.covariate_unit) == (("x", "y"), "cm/s")
    assert recording.start_s == pytest.approx(0.2)
    assert recording.stop_s == pytest.approx(4.2)


def test_covariates_with_an_offset_are_read_in_their_unit(write_nwb, tmp_path):
    data = np.arange(400.0)
    path = write_nwb(
        tmp_path / "a.nwb", TIMES, covariates=data, rate=100.0, conversion=0.5, offset=-3.0
    )
    np.testing.assert_allclose(read_nwb(path, WITH_VELOCITY).covariates[:, 0], data * 0.5 - 3)


def test_covariates_with_timestamps_keep_them(write_nwb, tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.005, 0.015, 400))
    path = write_nwb(tmp_path / "a.nwb", TIMES, covariates=np.ones((400, 1)), timestamps=times)
    np.testing.assert_array_equal(read_nwb(path, WITH_VELOCITY).covariate_times, times)


def test_samples_stamped_at_their_end_are_moved_back_by_one_period(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", TIMES, covariates=np.ones((400, 1)), rate=100.0)
    at_end = Recipe(dataset="t", covariates=CovariatesRecipe(path=VELOCITY, stamped="end"))
    assert read_nwb(path, at_end).covariate_times[0] == pytest.approx(-0.01)


def test_the_observed_interval_is_the_recording_where_there_are_no_covariates(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", TIMES, observed=(0.1, 9.5))
    recording = read_nwb(path, SPIKES_ONLY)
    assert (recording.start_s, recording.stop_s) == (0.1, 9.5)


def test_subject_and_session_come_from_the_file_and_else_from_its_name(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "sub-Z_ses-07.nwb", TIMES, subject="A", session="12")
    assert (read_nwb(path, SPIKES_ONLY).subject, read_nwb(path, SPIKES_ONLY).session) == ("A", "12")
    path = write_nwb(tmp_path / "sub-Z_ses-08.nwb", TIMES, session=None)
    assert read_nwb(path, SPIKES_ONLY).session == "08"


def test_stevenson_2011_has_exactly_the_counts_and_velocity_of_its_matlab_file():
    """Counts and hand velocity that the authors binned at 50 ms."""
    from scipy.io import loadmat

    path, mat = genuine("m1_stevenson_2011.nwb"), loadmat(str(genuine("m1_stevenson_2011.mat")))
    recording = read_nwb(path, WITH_VELOCITY)
    bins = mat["spikes"].shape[1]
    assert mat["spikes"].shape == (171, 15536)
    counts = bin_spikes(recording.spike_times, recording.start_s, 0.05, bins)
    np.testing.assert_array_equal(counts, mat["spikes"].T)
    velocity = bin_covariates(
        recording.covariate_times, recording.covariates, recording.start_s, 0.05, bins, 0.1
    )
    np.testing.assert_array_equal(velocity, mat["handVel"][:2].T.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "channels"), [("dandi000207_sub-4_ses-4.nwb", 19), ("pynapple_A8604.nwb", 3)]
)
def test_genuine_recordings_without_behaviour_are_read(name, channels):
    recording = read_nwb(genuine(name), SPIKES_ONLY)
    assert len(recording.spike_times) == sum(a.channels for a in recording.arrays) == channels
    assert sum(len(t) for t in recording.spike_times) > 1000
    assert recording.covariates.shape[1] == 0
    assert 60 < recording.stop_s - recording.start_s < 24 * 3600

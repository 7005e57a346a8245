"""The clock of a session: behaviour for a part of it, times that count from their trial, and series
with scales and clocks of their own."""

import h5py
import numpy as np
import pytest
from recordings import refusal

from ndt3_dist.prep.binning import bin_covariates
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.nwb.read_nwb import read_nwb

VELOCITY = "processing/behavior/Velocity/cursor_vel"


def recipe_of(spikes=None, **covariates) -> Recipe:
    keys = {"dataset": "t", "spikes": spikes or {}, "covariates": covariates}
    return Recipe.model_validate(keys)


def add_table(path, name: str, starts, stops) -> None:
    with h5py.File(path, "a") as f:
        table = f.create_group(f"intervals/{name}")
        table.attrs["colnames"] = ["start_time", "stop_time"]
        table["id"], table["start_time"] = np.arange(len(starts)), np.asarray(starts, float)
        table["stop_time"] = np.asarray(stops, float)


@pytest.fixture
def nights(write_nwb, tmp_path):
    """Spikes for 400 s, a velocity from 200 to 280 s."""
    draw = np.random.default_rng(2)
    units = [np.sort(draw.uniform(0, 400, 2000)) for _ in range(8)]
    t = 200 + np.arange(8000) / 100
    velocity = np.column_stack([np.sin(np.pi * t), np.cos(0.6 * np.pi * t)])
    return write_nwb(tmp_path / "a.nwb", units, covariates=velocity, timestamps=t)


def test_behaviour_for_a_part_of_the_session_is_used_where_the_file_bears_it_out(nights):
    assert "spikes.trust_clock=true" in refusal(nights, recipe_of(path=VELOCITY))
    add_table(nights, "epochs", [0, 200, 280], [200, 280, 400])
    recipe = recipe_of(path=VELOCITY)
    session, samples = cut(read_nwb(nights, recipe), recipe, "a.nwb", "0" * 64)
    assert len(samples) == 40
    assert session.start_s == pytest.approx(200)
    assert session.spikes + session.spikes_outside == 16_000
    assert session.spikes == sum(
        int(((t >= 200) & (t < 280)).sum()) for t in read_nwb(nights, recipe_of()).spike_times
    )


@pytest.mark.parametrize("way", [{"timestamps": np.linspace(0, 399, 50)}, {"rate": 1000.0}])
def test_other_series_bear_it_out_too_and_the_recipe_may_say_so(nights, way):
    trusted = recipe_of({"trust_clock": True}, path=VELOCITY)
    assert len(read_nwb(nights, trusted).covariates) == 8000
    with h5py.File(nights, "a") as f:
        group = f.create_group("acquisition/lfp")
        group["data"] = np.zeros(50 if "timestamps" in way else 399_000, "i1")
        if "timestamps" in way:
            group["timestamps"] = way["timestamps"]
        else:
            group["starting_time"] = 0.0
            group["starting_time"].attrs["rate"] = way["rate"]
    assert len(read_nwb(nights, recipe_of(path=VELOCITY)).covariates) == 8000


def test_the_rest_of_the_session_may_be_kept_without_covariates(nights):
    recipe = recipe_of({"trust_clock": True}, path=VELOCITY, outside="keep")
    session, samples = cut(read_nwb(nights, recipe), recipe, "a.nwb", "0" * 64)
    assert len(samples) in (199, 200)  # the last spike is not at 400 s
    assert session.spikes > 15_900
    alone = recipe_of({"trust_clock": True}, path=VELOCITY)
    _, part = cut(read_nwb(nights, alone), alone, "a.nwb", "0" * 64)
    with_velocity = [s for s in samples if 10_000 <= s[3]["start_bin"] < 14_000]
    assert [s[2]["covariates"] for s in with_velocity] == [s[2]["covariates"] for s in part]


def test_a_table_does_not_excuse_covariates_of_another_clock(nights):
    add_table(nights, "epochs", [0, 200, 280], [200, 280, 400])
    with h5py.File(nights, "a") as f:
        f[f"{VELOCITY}/timestamps"][...] += 1.6e9
    assert "spikes outside the recording" in refusal(nights, recipe_of(path=VELOCITY))


@pytest.fixture
def trialised(write_nwb, tmp_path):
    """Thirty trials of 10 s, and spikes that count from the start of theirs."""
    draw = np.random.default_rng(1)
    which = [np.sort(draw.integers(0, 30, 300)) for _ in range(4)]
    units = [draw.uniform(0, 9.9, 300) for _ in range(4)]
    t = np.arange(30_000) / 100
    path = write_nwb(tmp_path / "a.nwb", units, covariates=np.sin(t), timestamps=t)
    add_table(path, "trials", 10.0 * np.arange(30), 10.0 * np.arange(30) + 10)
    truth = [np.sort(times + 10.0 * n) for times, n in zip(units, which, strict=True)]
    return path, units, which, truth


def test_times_that_count_from_their_trial_are_refused_for_what_they_are(trialised):
    path, units, *_ = trialised
    with h5py.File(path, "a") as f:
        f["units/spike_times"][...] = np.concatenate([np.sort(times) for times in units])
    for covariates in ({}, {"path": VELOCITY}):
        said = refusal(path, recipe_of(**covariates))
        assert "none of its 30 intervals is longer than 10.0 s" in said
        assert "intervals/trials at 300.0 s" in said
        assert "count from the start of their trial" in said
    trusted = read_nwb(path, recipe_of({"trust_clock": True}))
    assert trusted.stop_s < 10


def test_times_that_count_from_their_trial_are_put_on_the_clock_where_a_column_says_it(trialised):
    path, _, which, truth = trialised
    assert "spikes.trial_of" in refusal(path, recipe_of())
    with h5py.File(path, "a") as f:
        f["units"].attrs["colnames"] = ["spike_times", "trial"]
        f["units/trial"] = np.concatenate(which)
        f["units/trial_index"] = f["units/spike_times_index"][()]
    found = read_nwb(path, recipe_of({"trial_of": "trial"}))
    for one, other in zip(found.spike_times, truth, strict=True):
        np.testing.assert_allclose(one, other)
    assert "no column 'x'" in refusal(path, recipe_of({"trial_of": "x"}))


@pytest.mark.parametrize("clock", ["timestamps", "rate"])
def test_spikes_that_end_long_before_a_series_are_told_of(write_nwb, tmp_path, clock):
    path = write_nwb(tmp_path / "a.nwb", [np.arange(0.5, 10, 0.1)])
    with h5py.File(path, "a") as f:
        group = f.create_group("acquisition/lfp")
        group["data"] = np.zeros(3001)
        if clock == "rate":
            group["starting_time"] = 0.0
            group["starting_time"].attrs["rate"] = 10.0
        else:
            group["timestamps"] = np.arange(3001) / 10
    (said,) = read_nwb(path, recipe_of()).said
    assert "spikes end at 9.9 s, acquisition/lfp at 300." in said
    assert read_nwb(path, recipe_of({"trust_clock": True})).said == []


def test_a_table_that_nobody_reads_and_cannot_be_read_is_in_nobodys_way(nights):
    add_table(nights, "laps", [0, 1], [1, 2])
    with h5py.File(nights, "a") as f:
        del f["intervals/laps/start_time"]
        f["intervals/laps/start_time"] = ["a", "b"]
    assert len(read_nwb(nights, recipe_of()).spike_times) == 8


def test_spikes_that_end_long_before_a_table_are_told_of(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", [np.arange(0.5, 60, 0.1)])
    add_table(path, "epochs", [0, 400], [400, 700])
    said = read_nwb(path, recipe_of()).said
    assert said == [
        "spikes end at 59.9 s, intervals/epochs at 700.0 s: are both in seconds of one clock?"
    ]


@pytest.mark.parametrize("kind", ["i2", "u1", "f4", "f8"])
@pytest.mark.parametrize("type_", ["ElectricalSeries", "TimeSeries", "SpatialSeries"])
def test_values_are_those_that_pynwb_gives_in_units(tmp_path, type_, kind):
    from datetime import UTC, datetime

    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import SpatialSeries
    from pynwb.ecephys import ElectricalSeries

    nwb = NWBFile("d", "id", datetime(2020, 1, 1, tzinfo=UTC), session_id="01")
    group = nwb.create_electrode_group("g0", "array", "M1", nwb.create_device("device"))
    for _ in range(2):
        nwb.add_electrode(location="M1", group=group)
    nwb.add_unit(spike_times=np.arange(0.05, 12, 0.1))
    data = np.random.default_rng(0).integers(0, 200, (1200, 2)).astype(kind)
    keys = {"name": "emg", "data": data, "rate": 100.0, "conversion": 1e-3, "offset": 0.25}
    if type_ == "ElectricalSeries":
        keys |= {"electrodes": nwb.create_electrode_table_region([0, 1], "emg")}
        keys |= {"channel_conversion": [1.0, 10.0]}
        item = ElectricalSeries(**keys)
    elif type_ == "SpatialSeries":
        item = SpatialSeries(reference_frame="screen", **keys)
    else:
        item = TimeSeries(unit="V", **keys)
    nwb.add_acquisition(item)
    path = tmp_path / "a.nwb"
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    with NWBHDF5IO(path, "r") as io:
        expected = io.read().acquisition["emg"].get_data_in_units()
    found = read_nwb(path, recipe_of(path="acquisition/emg")).covariates
    np.testing.assert_allclose(found, expected, rtol=1e-7 if kind == "f4" else 1e-15)
    scale = [1.0, 10.0] if type_ == "ElectricalSeries" else [1.0, 1.0]
    np.testing.assert_allclose(found, data * np.multiply(scale, 1e-3) + 0.25, rtol=1e-6)


def test_a_conversion_of_zero_is_said_and_each_channel_must_have_one(write_session, tmp_path):
    path = write_session(tmp_path / "a.nwb", seed=0)
    with h5py.File(path, "a") as f:
        f[f"{VELOCITY}/data"].attrs["conversion"] = 0.0
    assert "conversion of 0 is taken for 1" in read_nwb(path, recipe_of(path=VELOCITY)).said[0]
    with h5py.File(path, "a") as f:
        f[f"{VELOCITY}/channel_conversion"] = [1.0, 2.0, 3.0]
    said = refusal(path, recipe_of(path=VELOCITY))
    assert "channel_conversion has 3 values, the data 2 channels" in said


def test_a_mask_without_times_needs_one_clock(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", [np.arange(0.05, 12, 0.1)])
    with h5py.File(path, "a") as f:
        for name, late in (("a", 0.0), ("b", 3.0)):
            group = f.create_group(f"processing/behavior/pose/{name}")
            group["data"], group["timestamps"] = np.arange(900.0), late + np.arange(900) / 100
        f["acquisition/mask/data"] = np.ones(900, bool)
    keys = {"covariates": {"path": "processing/behavior/pose/*"}}
    keys |= {"validity": {"mask": "acquisition/mask", "clock": "covariates"}}
    recipe = Recipe.model_validate({"dataset": "t", **keys})
    assert "2 of the covariates have times of their own" in refusal(path, recipe)


def test_series_side_by_side_are_each_binned_on_their_own_clock(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", [np.arange(0.05, 12, 0.1)])
    clocks = {"nose": np.arange(1200) / 100, "paw": 0.003 + np.arange(2400) / 200,
              "tail": np.arange(1200) / 100}  # fmt: skip
    with h5py.File(path, "a") as f:
        for name, times in clocks.items():
            group = f.create_group(f"processing/behavior/pose/{name}")
            group.attrs["neurodata_type"] = "SpatialSeries"
            group["data"] = np.column_stack([times, -times, 2 * times])
            group["timestamps"] = times
    recipe = recipe_of(path="processing/behavior/pose/*", columns=[3, 0, 8])
    recording = read_nwb(path, recipe)
    assert recording.covariate_names == ("paw_x", "nose_x", "tail_z")
    session, samples = cut(recording, recipe, "a.nwb", "0" * 64)
    scales = [c.scale for c in session.covariates]
    first = np.frombuffer(samples[0][2]["covariates"][-100 * 3 * 4 :], "<f4").reshape(100, 3)
    bins = 0.02 * np.arange(1, 99)
    # Means of the samples in each bin: of 4 and of 2 on each clock.
    np.testing.assert_allclose(first[1:99, 0] * scales[0], bins + 0.003 + 0.0075, atol=1e-6)
    np.testing.assert_allclose(first[1:99, 1] * scales[1], bins + 0.005, atol=1e-6)
    np.testing.assert_allclose(first[1:99, 2] * scales[2], 2 * (bins + 0.005), atol=1e-6)


@pytest.mark.parametrize("hz", [30, 50])
def test_causal_derivatives_see_no_sample_beyond_the_end_of_their_bin(write_nwb, tmp_path, hz):
    times = np.arange(12 * hz) / hz
    path = write_nwb(
        tmp_path / "a.nwb", [np.arange(0.05, 12, 0.1)], covariates=times, rate=1.0 * hz
    )
    recipe = recipe_of(path=VELOCITY, derivative=True, causal=True)
    before = values_of(path, recipe)
    np.testing.assert_allclose(before[10:-10], 1.0, rtol=1e-5)
    with h5py.File(path, "a") as f:
        f[f"{VELOCITY}/data"][times >= 6.0] += 100
    after = values_of(path, recipe)
    np.testing.assert_array_equal(after[:300], before[:300])
    assert (after != before)[300:].any()


def values_of(path, recipe) -> np.ndarray:
    """The only covariate of a recording in its bins."""
    recording = read_nwb(path, recipe)
    more = {"resample": recipe.covariates.resample, "causal": recipe.covariates.causal}
    clock = recording.covariate_times, recording.covariates
    return bin_covariates(*clock, recording.start_s, 0.02, 600, 0.1, **more)[:, 0]


def test_covariates_without_a_value_in_any_bin_are_told_of(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", [[0.5]], covariates=np.sin(np.arange(1200)), rate=100.0)
    with h5py.File(path, "a") as f:
        group = f.create_group("acquisition/bins")
        group["data"], group["timestamps"] = np.ones((600, 2), int), np.arange(600) / 50
    recipe = recipe_of({"kind": "counts", "path": "acquisition/bins"}, path=VELOCITY)
    recording = read_nwb(path, recipe)
    cut(recording, recipe, "a.nwb", "0" * 64)
    assert recording.said == []
    with h5py.File(path, "a") as f:
        f[f"{VELOCITY}/starting_time"][...] = 1.6e9
    recording = read_nwb(path, recipe)
    cut(recording, recipe, "a.nwb", "0" * 64)
    assert recording.said == ["no bin has a value of cursor_vel"]

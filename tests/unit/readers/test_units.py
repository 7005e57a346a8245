"""Units as sorters and archives write them: on which channel, when observed, in which order."""

from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from recordings import refusal

from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.nwb.read_nwb import read_nwb

SECONDS = 62.0
EIGHT = list(range(8))
DENSE = [EIGHT] * 8
NEIGHBOURS = [[0, 1, 2, 3]] * 3 + [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]] + [[4, 5, 6, 7]] * 2
COUNTS = [100 * (unit + 1) for unit in range(8)]


def trains() -> list[np.ndarray]:
    draw = np.random.default_rng(1)
    return [np.sort(draw.uniform(0.01, SECONDS - 0.01, count)) for count in COUNTS]


def recipe_of(**spikes) -> Recipe:
    return Recipe.model_validate({"dataset": "t", "spikes": spikes})


@pytest.fixture
def sorted_file(tmp_path):
    """Write 8 units on 8 electrodes: (what each lists, its columns, ids of electrodes) -> path."""
    from pynwb import NWBHDF5IO, NWBFile

    def write(listed, columns=None, ids=EIGHT, **more) -> Path:
        nwb = NWBFile("d", "id", datetime(2020, 1, 1, tzinfo=UTC), session_id="01")
        group = nwb.create_electrode_group("g0", "array", "M1", nwb.create_device("device"))
        for id_ in ids:
            nwb.add_electrode(id=id_, location="M1", group=group)
        for name in columns or {}:
            nwb.add_unit_column(name, "where it is largest")
        for unit, times in enumerate(trains()):
            values = {name: column[unit] for name, column in (columns or {}).items()}
            values |= {name: column[unit] for name, column in more.items()}
            nwb.add_unit(spike_times=times, electrodes=listed[unit], **values)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.nwb"
        with NWBHDF5IO(path, "w") as io:
            io.write(nwb)
        return path

    return write


def counts(path: Path, **spikes) -> list[int]:
    return [len(t) for t in read_nwb(path, recipe_of(**spikes)).spike_times]


@pytest.mark.parametrize("listed", [DENSE, NEIGHBOURS])
@pytest.mark.parametrize("name", ["max_electrode", "peak_electrode", "electrode", "peak_channel"])
def test_a_unit_that_lists_several_electrodes_is_on_its_peak(sorted_file, listed, name):
    path = sorted_file(listed, {name: [0, 1, 2, 3, 4, 5, 6, 7]})
    assert counts(path) == COUNTS
    said = read_nwb(path, recipe_of()).said
    assert said == [f"8 units list several electrodes; each is on its {name}"]


def test_a_peak_may_be_an_electrode_id_or_a_place_in_the_list(sorted_file):
    ids = [10, 11, 12, 13, 14, 15, 16, 17]
    assert counts(sorted_file(DENSE, {"peak_channel_id": ids[::-1]}, ids)) == COUNTS[::-1]
    places = sorted_file(NEIGHBOURS, {"ch": [0, 1, 2, 3, 3, 3, 2, 3]}, ids)
    assert counts(places) == [100, 200, 300, 0, 400, 500, 1300, 800]


def test_a_peak_that_may_be_read_in_two_ways_decides_nothing(sorted_file):
    path = sorted_file(DENSE, {"peak_channel": [0, 1, 2, 3, 4, 5, 6, 7]}, ids=[*range(7, -1, -1)])
    assert counts(path) == COUNTS  # units as channels
    said = read_nwb(path, recipe_of()).said[0]
    assert "peak_channel may hold rows or ids or places: units are channels" in said
    by_id = counts(path, peak="peak_channel", peak_is="id", channels="electrode")
    by_row = counts(path, peak="peak_channel", peak_is="row", channels="electrode")
    assert by_row == COUNTS[::-1]  # channels are in the order of ids, which are turned about
    assert by_id == COUNTS
    assert "say spikes.peak and peak_is" in refusal(path, recipe_of(channels="electrode"))


def test_the_largest_mean_waveform_decides_where_no_column_does(sorted_file):
    waves = np.zeros((8, 30, 8))
    for unit in range(8):
        waves[unit, 10:20, (unit + 3) % 8] = -40.0
        waves[unit, :, unit] = 100.0  # an offset is no excursion
    path = sorted_file(DENSE, waveform_mean=waves)
    assert counts(path) == COUNTS[-3:] + COUNTS[:-3]
    assert "largest waveform_mean" in read_nwb(path, recipe_of()).said[0]


def test_a_flat_mean_waveform_decides_nothing(sorted_file):
    waves = np.zeros((8, 30, 8))
    waves[:7, 10:20, 3] = -40.0
    path = sorted_file(DENSE, waveform_mean=waves)
    assert counts(path) == COUNTS
    assert "units are channels" in read_nwb(path, recipe_of()).said[0]


def test_where_nothing_decides_units_are_channels_and_an_electrode_is_not_made_up(sorted_file):
    path = sorted_file(NEIGHBOURS)
    recording = read_nwb(path, recipe_of())
    assert [len(t) for t in recording.spike_times] == COUNTS
    assert [(a.name, a.channels) for a in recording.arrays] == [("units", 8)]
    words = "8 of 8 units list several electrodes, and no column says where each is largest"
    assert recording.said == [f"{words}: units are channels"]
    assert words in refusal(path, recipe_of(channels="electrode"))
    assert "no column 'ch'; it has" in refusal(path, recipe_of(peak="ch"))


def test_a_peak_column_alone_places_units(sorted_file):
    path = sorted_file([[0]] * 8, {"peak_channel_id": EIGHT[::-1]})
    with h5py.File(path, "a") as f:
        f["units"].attrs["colnames"] = ["spike_times", "peak_channel_id"]
    assert counts(path) == COUNTS  # as before: units are channels
    assert counts(path, channels="electrode") == COUNTS[::-1]


def observed(write_nwb, path, *intervals):
    """A file with a unit for each of these lists of intervals."""
    units = [np.arange(0.5, 100, 1.0)] * len(intervals)
    write_nwb(path, units)
    with h5py.File(path, "a") as f:
        f["units"].attrs["colnames"] = ["spike_times", "obs_intervals"]
        f["units/obs_intervals"] = np.concatenate(intervals).astype(float)
        f["units/obs_intervals_index"] = np.cumsum([len(spans) for spans in intervals])
    return path


def test_what_not_all_units_were_observed_in_is_no_silence(write_nwb, tmp_path):
    path = observed(
        write_nwb, tmp_path / "a.nwb",
        [(0, 100)], [(0, 40), (60, 100)], [(20, 50), (50.0005, 80)],
    )  # fmt: skip
    recording = read_nwb(path, recipe_of())
    np.testing.assert_allclose(recording.spans, [[20, 40], [60, 80]])
    told = "observed 40.0 s that all units share, of 100.0 s of any (spikes.observed)"
    assert recording.said == [told]
    any_of_them = read_nwb(path, recipe_of(observed="any"))
    np.testing.assert_allclose(any_of_them.spans, [[0, 100]])
    missed = 1 - (100 + 80 + 60) / 300
    assert any_of_them.said == [f"{missed:.1%} of the time of its units was not observed"]


def test_units_that_share_nothing_are_refused_with_the_way_on(write_nwb, tmp_path):
    path = observed(write_nwb, tmp_path / "a.nwb", [(0, 50)], [(50, 100)])
    assert "nowhere share; spikes.observed=any" in refusal(path, recipe_of())
    same = observed(write_nwb, tmp_path / "b.nwb", [(0, 50), (60, 90)], [(0, 50), (60, 90)])
    assert read_nwb(same, recipe_of()).said == []


def test_units_that_do_not_say_when_they_were_observed_are_counted(write_nwb, tmp_path):
    path = observed(write_nwb, tmp_path / "a.nwb", [(0, 50)], np.zeros((0, 2)), [(0, 50)])
    recording = read_nwb(path, recipe_of())
    np.testing.assert_allclose(recording.spans, [[0, 50]])
    assert recording.said == ["1 of 3 units have no obs_intervals"]


def alm_like(step_s: float = 17.0) -> np.ndarray:
    """Snippets of trials, joined: each begins before the one before it has ended."""
    draw = np.random.default_rng(3)
    starts = 30.0 * np.arange(21)
    return np.concatenate([np.sort(draw.uniform(s, s + 30 + step_s / 2, 80)) for s in starts])


def test_times_that_go_back_a_little_are_sorted_counted_and_told_of(write_nwb, tmp_path):
    times = alm_like()
    steps = np.diff(times)
    path = write_nwb(tmp_path / "a.nwb", [times, [1.0, 2.0]])
    recording = read_nwb(path, recipe_of())
    np.testing.assert_array_equal(recording.spike_times[0], np.sort(times))
    back = f"{int((steps < 0).sum())} steps back by up to {-steps.min():.3g} s"
    assert recording.said == [f"spike times sorted: {back}"]


def test_a_clock_that_begins_anew_is_no_disorder(write_nwb, tmp_path):
    late = np.r_[np.arange(1, 400, 0.5), np.arange(1, 1000, 0.5)]  # after 400 of 1,400 s
    path = write_nwb(tmp_path / "a.nwb", [late])
    assert "as if its clock began anew" in refusal(path, recipe_of())
    early = np.r_[np.arange(1, 40, 0.5), np.arange(0.6, 1000, 0.5)]
    write_nwb(tmp_path / "b.nwb", [early])
    assert "as if its clock began anew" in refusal(tmp_path / "b.nwb", recipe_of())
    asked = read_nwb(path, recipe_of(repair=["sort_restarts"]))
    np.testing.assert_array_equal(asked.spike_times[0], np.sort(late))


def test_the_first_spikes_of_a_unit_may_change_places_too(write_nwb, tmp_path):
    times = np.arange(0.5, 60, 0.1)
    for at in (0, 3, 200):
        times[[at, at + 1]] = times[[at + 1, at]]
    recording = read_nwb(write_nwb(tmp_path / "a.nwb", [times]), recipe_of())
    np.testing.assert_array_equal(recording.spike_times[0], np.sort(times))
    assert recording.said == ["spike times sorted: 3 steps back by up to 0.1 s"]


def test_spikes_without_a_time_are_left_out_where_that_is_asked_for(write_nwb, tmp_path):
    units = [[0.5, np.nan, 1.5], [np.nan], [], [0.1, 0.2, np.inf]]
    path = write_nwb(tmp_path / "a.nwb", units)
    assert "unit 0 has 1 spike times that are NaN" in refusal(path, recipe_of())
    recording = read_nwb(path, recipe_of(repair=["drop_nan"]))
    assert [t.tolist() for t in recording.spike_times] == [[0.5, 1.5], [], [], [0.1, 0.2]]
    assert recording.said == ["3 spikes without a time left out"]


def test_events_out_of_order_keep_their_channels(write_nwb, tmp_path):
    path = write_nwb(tmp_path / "a.nwb", [[0.5]])
    with h5py.File(path, "a") as f:
        group = f.create_group("acquisition/e")
        group.attrs["neurodata_type"] = "TimeSeries"
        group["data"] = np.array([0, 1, 0, 1, 1])[:, None]
        group["timestamps"] = [100.0, 150.0, 149.0, 148.0, 160.0]
    keys = {"kind": "events", "path": "acquisition/e", "num_channels": 2}
    recording = read_nwb(path, recipe_of(**keys))
    assert [t.tolist() for t in recording.spike_times] == [[100.0, 149.0], [148.0, 150.0, 160.0]]


def test_units_in_another_place_are_named_and_chosen(write_session, tmp_path):
    path = write_session(tmp_path / "a.nwb", seed=0)
    expected = read_nwb(path, recipe_of()).spike_times
    with h5py.File(path, "a") as f:
        f.create_group("processing/ecephys")
        f.move("units", "processing/ecephys/units")
        f.copy("processing/ecephys/units", "processing/ecephys/other")
    said = refusal(path, recipe_of())
    assert "units at processing/ecephys/other, processing/ecephys/units" in said
    assert "spikes.table=" in said
    found = read_nwb(path, recipe_of(table="processing/ecephys/units")).spike_times
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


ELECTRODES = "general/extracellular_ephys/electrodes"


@pytest.mark.parametrize(
    "name",
    [
        "units/spike_times",
        "units/spike_times_index",
        "units/electrodes",
        "units/electrodes_index",
        "units/id",
        f"{ELECTRODES}/id",
        f"{ELECTRODES}/group_name",
        "intervals/trials/start_time",
        "intervals/trials/stop_time",
        "intervals/trials/result",
        "acquisition/mask/data",
        "acquisition/mask/timestamps",
        "processing/behavior/Velocity/cursor_vel/data",
        "processing/behavior/Velocity/cursor_vel/starting_time",
    ],
)
def test_a_column_of_one_is_the_same_as_none(write_session, tmp_path, name):
    path = write_session(tmp_path / "a.nwb", seed=0, covariates=np.sin(np.arange(1200) / 100))
    with h5py.File(path, "a") as f:
        trials = f.create_group("intervals/trials")
        trials.attrs["colnames"] = ["start_time", "stop_time", "result"]
        trials["id"], trials["start_time"] = np.arange(3), [0.0, 4.0, 8.0]
        trials["stop_time"], trials["result"] = [3.0, 7.0, 11.0], ["R", "F", "R"]
        mask = f.create_group("acquisition/mask")
        mask["data"], mask["timestamps"] = np.ones(1200, bool), np.arange(1200) / 100
    rule = {"table": "trials", "column": "result", "values": ["R"], "mask": "acquisition/mask"}
    velocity = {"path": "processing/behavior/Velocity/cursor_vel"}
    recipe = Recipe.model_validate({"dataset": "t", "covariates": velocity, "validity": rule})
    expected = read_nwb(path, recipe)
    with h5py.File(path, "a") as f:
        kept, data = dict(f[name].attrs), f[name][()]
        del f[name]
        f[name] = np.reshape(data, (-1, 1))
        for key, value in kept.items():
            f[name].attrs[key] = value
    found = read_nwb(path, recipe)
    np.testing.assert_array_equal(found.covariates, expected.covariates)
    np.testing.assert_array_equal(found.covariate_times, expected.covariate_times)
    for one, other in zip(found.spike_times, expected.spike_times, strict=True):
        np.testing.assert_array_equal(one, other)

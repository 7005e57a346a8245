"""What lies on the border of two bins falls to the later one, on every clock and in every type.

The oracle reckons with fractions: sample k of a recording at `hz` is k / hz after its start.
"""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from mat_files import cell, write_mat
from recordings import refusal

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import bin_covariates, count_spikes, num_bins
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.windows import cut, span_bins
from ndt3_dist.readers.nwb.nwb_series import stamped_times
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.options import SpikesRecipe
from ndt3_dist.readers.read import read_recording
from ndt3_dist.readers.recording import Recording

VELOCITY = "processing/behavior/Velocity/cursor_vel"
SECONDS = 12
RATES = (50, 60, 100, 130, 1000)
PHASE = Fraction(1, 7)
"""No clock begins with a number that floats hold."""
OFFSETS = (0, 100_000, 1_600_000_000)
BIN = Fraction(1, 50)


def recipe_of(validity=None, **covariates) -> Recipe:
    covariates = {"path": VELOCITY, "quantile": 1.0, **covariates}
    return Recipe.model_validate(
        {"dataset": "t", "covariates": covariates, "validity": validity or {}}
    )


def narrow(path: Path, *names: str) -> Path:
    """Make datasets of a file float32."""
    with h5py.File(path, "a") as f:
        for name in names:
            data, attributes = f[name][()].astype(np.float32), dict(f[name].attrs)
            del f[name]
            f[name] = data
            for key, value in attributes.items():
                f[name].attrs[key] = value
    return path


@pytest.fixture
def record(write_nwb, tmp_path):
    """Write a recording: (hz, offset, clock, type of its times, spikes from its start on)."""

    def write(hz=100, offset=0, clock="timestamps", kind="f8", spikes=(Fraction(34, 3),)) -> Path:
        count, offset = hz * SECONDS, offset + PHASE
        times = {"rate": float(hz), "starting_time": float(offset)}
        if clock == "timestamps":
            times = {"timestamps": [float(offset + Fraction(k, hz)) for k in range(count)]}
        units = [[float(offset + t) for t in spikes]]
        values = np.random.default_rng(0).integers(-99, 99, (count, 1)).astype(float)
        path = write_nwb(tmp_path / f"{hz}-{clock}-{kind}.nwb", units, covariates=values,
                         **times)  # fmt: skip
        stamps = [f"{VELOCITY}/timestamps"] if clock == "timestamps" else []
        return narrow(path, *stamps) if kind == "f4" else path

    return write


def exact_bins(hz: int, bin_s: Fraction) -> np.ndarray:
    """Bin of each sample."""
    return np.array([Fraction(k, hz) // bin_s for k in range(hz * SECONDS)], int)


@pytest.mark.parametrize("hz", RATES)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("kind", ["rate-f8", "timestamps-f8", "timestamps-f4"])
def test_an_impulse_at_each_border_lies_in_the_bin_that_begins_there(record, hz, offset, kind):
    clock, kind = kind.split("-")
    path = record(hz, offset, clock, kind)
    if kind == "f4" and offset == OFFSETS[-1]:  # all of its times are the same number
        said = refusal(path, recipe_of())
        assert "not strictly ascending" in said
        assert "they are held to 128 s: expected float64" in said
        return
    recording = read_nwb(path, recipe_of())
    assert num_bins(recording, 0.02) == SECONDS * 50
    where = exact_bins(hz, BIN)
    on_border = [k for k in range(len(where)) if Fraction(k, hz) % BIN == 0]
    assert len(on_border) >= SECONDS * 10
    impulses = np.zeros((len(where), len(on_border)))
    impulses[on_border, range(len(on_border))] = 1.0
    number = np.bincount(where)
    expected = np.zeros((SECONDS * 50, len(on_border)))
    expected[where[on_border], range(len(on_border))] = 1 / number[where[on_border]]
    recording = replace(recording, covariates=impulses)
    np.testing.assert_array_equal(binned(recording), expected.astype(np.float32))
    # And every other sample is in its place too.
    values = read_nwb(path, recipe_of()).covariates
    means = np.bincount(where, weights=values[:, 0]) / number
    found = binned(replace(recording, covariates=values))[:, 0]
    np.testing.assert_array_equal(found, means.astype(np.float32))


def binned(recording, bin_s: float = 0.02, resample: str = "mean") -> np.ndarray:
    return bin_covariates(
        recording.covariate_times,
        recording.covariates,
        recording.start_s,
        bin_s,
        num_bins(recording, bin_s),
        0.1,
        recording.covariate_error_s,
        resample,
    )


@pytest.mark.parametrize("hz", [50, 60])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_what_is_sparser_than_bins_is_interpolated_alike_on_every_clock(record, hz, offset, kind):
    if (kind, offset) == ("f4", OFFSETS[-1]):
        pytest.skip("float32 does not hold such times")
    recording = read_nwb(record(hz, offset, "timestamps", kind), recipe_of())
    values, found = recording.covariates[:, 0], binned(recording, 0.01, "auto")[:, 0]
    for bin_ in range(2, SECONDS * 100 - 4):
        at = (bin_ + Fraction(1, 2)) * BIN / 2 * hz
        before, part = int(at), float(at % 1)
        expected = values[before] * (1 - part) + values[before + 1] * part
        assert found[bin_] == pytest.approx(expected, abs=0.02)  # a hundredth of 1 % of full scale


@pytest.mark.parametrize("clock", ["rate", "timestamps"])
@pytest.mark.parametrize(
    ("kind", "offset"), [*(("f8", o) for o in OFFSETS), ("f4", 0), ("f4", 1000), ("f4", 15_000)]
)
def test_a_spike_at_each_border_lies_in_the_bin_that_begins_there(record, clock, kind, offset):
    """And one 1.5 ms before each in the bin that ends there."""
    spikes = [b * BIN for b in range(1, 599)]
    spikes = sorted([*spikes, *(t - Fraction(3, 2000) for t in spikes if t / BIN % 3 == 0)])
    path = record(100, offset, clock, kind, spikes)
    if kind == "f4":
        narrow(path, "units/spike_times")
    exact = np.bincount([t // BIN for t in spikes], minlength=600)
    recording = read_nwb(path, recipe_of())
    np.testing.assert_array_equal(count_spikes(recording, 0.02, 600)[:, 0], exact)


def test_float32_that_was_widened_is_known_by_its_values(record):
    """Writers make float64 of what a schema wants in float64."""
    spikes = [b * BIN for b in range(1, 599)]
    path = record(130, 1000, "timestamps", "f4", spikes)
    narrow(path, "units/spike_times")
    expected = read_nwb(path, recipe_of())
    with h5py.File(path, "a") as f:
        for name in ("units/spike_times", f"{VELOCITY}/timestamps"):
            data = f[name][()].astype(np.float64)
            del f[name]
            f[name] = data
    found = read_nwb(path, recipe_of())
    assert count_spikes(found, 0.02, 600)[1:599].tolist() == [[1]] * 598
    np.testing.assert_array_equal(binned(found), binned(expected))


def test_spikes_whose_times_are_coarser_than_bins_are_refused(record):
    path = narrow(record(100, 1_000_000, "rate"), "units/spike_times")
    with pytest.raises(BadInput, match=r"holds spike times to 0\.0625 s, in bins of 0\.02 s; exp"):
        count_spikes(read_nwb(path, recipe_of()), 0.02, 600)
    assert count_spikes(read_nwb(path, recipe_of()), 0.1, 120).sum() == 1


def test_a_start_that_is_held_in_float32_moves_no_spike(record):
    """The velocity's clock is uneven, so that it stays as it is; spikes are float64."""
    found = []
    for phase in (0, 0.01, 0.02, 0.03):
        path = record(100, 1000, "timestamps", "f4", [phase + b * BIN for b in range(1, 590)])
        with h5py.File(path, "a") as f:
            times = f[f"{VELOCITY}/timestamps"]
            times[...] = times[()] + np.r_[phase, np.full(1199, phase) + 0.002]
        recording = read_nwb(path, recipe_of())
        assert recording.spike_error_s == 2.0**-14
        found.append(count_spikes(recording, 0.02, 600)[1:590, 0].tolist())
    assert found == [[1] * 589] * 4


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_recording_of_whole_bins_has_all_of_them_on_every_clock(offset):
    for number in range(1, 200):
        at = [offset + PHASE + Fraction(k, 100) for k in range(2 * number)]
        times, period, error = stamped_times(np.array([float(t) for t in at]))
        recording = Recording(
            "A", "1", [], [], times[0], times[-1] + period, times, covariate_error_s=error
        )
        assert num_bins(recording, 0.02) == number
        recording.counts, recording.count_bin_s = np.zeros((2 * number + 1, 1)), 0.01
        recording.span_error_s = error
        assert num_bins(recording, 0.02) == number


def rich(write_nwb, path: Path, offset: int, hz: int) -> Path:
    """A recording in which every kind of edge lies on a border of bins."""
    from pynwb import NWBHDF5IO, TimeSeries

    rng, count = np.random.default_rng(1), hz * 24
    offset += PHASE
    at = np.array([float(offset + Fraction(k, hz)) for k in range(count)])
    spikes = [float(offset + Fraction(int(k), 1000)) for k in np.sort(rng.integers(0, 24_000, 900))]
    values = np.cumsum(rng.integers(-9, 9, (count, 2)), axis=0) / 4.0
    write_nwb(
        path,
        [spikes],
        covariates=values,
        timestamps=at,
        observed=(float(offset), float(offset + 24)),
    )
    with NWBHDF5IO(path, "a") as io:
        nwb = io.read()
        for start, stop in ((2, 9), (9.001, 13), (13.5, 23.98)):
            nwb.add_trial(
                start_time=float(offset + Fraction(str(start))),
                stop_time=float(offset + Fraction(str(stop))),
            )
        mask = (np.arange(count) * 50 // hz % 130 >= 5).astype(int)
        nwb.add_acquisition(TimeSeries(name="eval_mask", data=mask, unit="bool", timestamps=at))
        io.write(nwb)
    return path


RULES = {
    "plain": ({}, {}),
    "trials_mask": ({"table": "trials"}, {}),
    "trials_cut": ({"table": "trials", "outside": "cut"}, {}),
    "mask": ({"mask": "acquisition/eval_mask"}, {}),
    "mask_cut": ({"mask": "acquisition/eval_mask", "outside": "cut"}, {}),
    "derivative": ({"table": "trials"}, {"derivative": True}),
    "end": ({"mask": "acquisition/eval_mask"}, {"stamped": "end"}),
    "held": ({}, {"drop": ["held_values"], "derivative": True}),
}


@pytest.mark.parametrize("hz", [10, 50, 100])
def test_a_recording_gives_the_same_windows_on_every_clock(write_nwb, tmp_path, hz):
    """Trials, spans, masks, gaps of just the longest length: 10 Hz under the default 100 ms."""
    paths = [rich(write_nwb, tmp_path / f"{o}.nwb", o, hz) for o in OFFSETS]
    for name, (validity, covariates) in RULES.items():
        recipe = recipe_of(validity, **covariates)
        made = []
        for path in paths:
            session, samples = cut(read_nwb(path, recipe), recipe, "a.nwb", "0" * 64)
            made.append((session, [(fields, members) for _, _, members, fields in samples]))
        (first, expected), others = made[0], made[1:]
        assert expected, name
        for session, samples in others:
            assert session.windows == first.windows, name
            assert (session.bins, session.spikes) == (first.bins, first.spikes), name
            assert [f for f, _ in samples] == [f for f, _ in expected], name
            for (_, ours), (_, theirs) in zip(samples, expected, strict=True):
                assert ours["spikes"] == theirs["spikes"], name
                one, other = (np.frombuffer(m["covariates"][128:], "f4") for m in (ours, theirs))
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-4, err_msg=name)


STRETCHES = np.r_[0, np.cumsum(np.tile([23, 4, 31, 17, 58, 9], 4)), 600].reshape(-1, 2).tolist()
"""First bins of stretches, and of the holes behind them."""
HOLES = {k for (_, a), (b, _) in pairwise(STRETCHES) for k in range(2 * a, 2 * b)}


@pytest.mark.parametrize("kind", ["events", "counts"])
@pytest.mark.parametrize(("offset", "type_"), [*((o, "f8") for o in OFFSETS), (1000, "f4")])
def test_events_and_counts_lie_in_their_bins_on_every_clock(
    write_nwb, tmp_path, kind, offset, type_
):
    """Counts of 10 ms in many stretches, events on borders; beside a velocity of that clock."""
    from pynwb import NWBHDF5IO, TimeSeries

    offset += PHASE
    at = [offset + Fraction(k, 100) for k in range(1200) if k not in HOLES]
    counts = np.random.default_rng(0).poisson(2, (len(at), 3)).astype(np.uint8)
    if kind == "events":
        at = [offset + b * BIN for b in range(600)]
        counts = np.arange(600) % 3
    times, stamps = [float(t) for t in at], [float(offset + k * BIN) for k in range(600)]
    velocity = np.random.default_rng(1).normal(size=(600, 2))
    path = write_nwb(tmp_path / "a.nwb", [[1.0]], covariates=velocity, timestamps=stamps)
    with NWBHDF5IO(path, "a") as io:
        nwb = io.read()
        nwb.add_acquisition(TimeSeries(name="spikes", data=counts, unit="n", timestamps=times))
        io.write(nwb)
    if type_ == "f4":
        narrow(path, "acquisition/spikes/timestamps", f"{VELOCITY}/timestamps")
    told = {"kind": kind, "path": "acquisition/spikes"}
    told |= {"num_channels": 3} if kind == "events" else {}
    recipe = recipe_of().model_copy(update={"spikes": SpikesRecipe(**told)})
    recording = read_nwb(path, recipe)
    found = count_spikes(recording, 0.02, 600)
    if kind == "events":
        np.testing.assert_array_equal(found, np.eye(3)[counts])
        return
    whole = np.zeros((1200, 3))
    whole[[int((t - offset) * 100) for t in at]] = counts
    np.testing.assert_array_equal(found, whole.reshape(600, 2, 3).sum(1))
    spans = span_bins(recording, 0.02, num_bins(recording, 0.02))
    assert [list(span) for span in spans] == STRETCHES
    np.testing.assert_array_equal(binned(recording), velocity.astype(np.float32))


def test_series_side_by_side_may_hold_one_clock_in_two_types(record):
    path = record(100, 1000, "timestamps", "f4")
    with h5py.File(path, "a") as f:
        f.copy(f[VELOCITY], f["processing/behavior"], "other")
        del f["processing/behavior/other/timestamps"]
        f["processing/behavior/other/timestamps"] = 1000.0137 + np.arange(1200) / 100
    both = [VELOCITY, "processing/behavior/other"]
    apart = read_nwb(path, recipe_of(path=both))
    assert [apart.covariates.shape, apart.more_covariates[0].values.shape] == [(1200, 1)] * 2
    with h5py.File(path, "a") as f:
        times = 1000 + np.arange(1200) / 100 + 0.001 * (np.arange(1200) == 5)  # uneven
        f["processing/behavior/other/timestamps"][...] = times
        f[f"{VELOCITY}/timestamps"][...] = times  # stays as float32 has it
    assert read_nwb(path, recipe_of(path=both)).covariates.shape == (1200, 2)


def matlab(reader: str, offset: Fraction | int, kind: type, late=False) -> tuple[dict, Recipe]:
    """A MATLAB file at 100 Hz with a spike on each border, and the recipe that reads it.

    Where one sample is late the clock is not even, and stays as it is.
    """
    offset += PHASE
    t = [float(offset + Fraction(k, 100) + Fraction(late and k == 11, 300)) for k in range(1200)]
    t = np.array(t, kind)
    spikes = np.array([float(offset + b * BIN) for b in range(1, 599)], kind)
    move = np.random.default_rng(0).normal(size=(1200, 3))
    told = {"dataset": "t", "reader": reader}
    if reader == "rtt":
        units = cell([spikes] + [np.zeros((0, 0))] * 95, (96, 1))
        return {"spikes": units, "t": t, "finger_pos": move}, Recipe.model_validate(told)
    if reader == "xds":
        inner = {"spikes": cell([spikes]), "time_frame": t, "bin_width": 0.01, "curs_v": move}
        told["covariates"] = {"path": "curs_v"}
        return {"xds": inner}, Recipe.model_validate(told)
    told |= {"mat": {"times": "t"}, "covariates": {"path": "vel"}}
    return {"spikes": cell([spikes]), "t": t, "vel": move}, Recipe.model_validate(told)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("reader", ["mat", "rtt", "xds"])
@pytest.mark.parametrize(
    ("offset", "kind"), [(1000, np.float32), (100_000, np.float64), (1_600_000_000, np.float64)]
)
def test_matlab_files_give_the_same_bins_on_every_clock(tmp_path, reader, offset, kind, late):
    found = []
    for number, (start, type_) in enumerate([(0, np.float64), (offset, kind)]):
        values, recipe = matlab(reader, start, type_, late)
        recording = read_recording(write_mat(tmp_path / f"a_{number}.mat", values), recipe)
        spikes = count_spikes(recording, 0.02, num_bins(recording, 0.02))
        found.append((spikes, binned(recording)))
    assert found[1][0][1:599, 0].tolist() == [1] * 598
    np.testing.assert_array_equal(found[0][0], found[1][0])
    # Steps of float32 make a velocity inexact; a sample in another bin were a hundred times worse.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=0.02)


def test_steps_of_the_longest_gap_are_no_gap_to_a_velocity_on_any_clock(tmp_path):
    t = [1_600_000_000 + PHASE + Fraction(k, 10) for k in range(300)]
    values = {"spikes": cell([[float(t[9])]]), "t": np.array(t, float), "pos": np.ones((300, 1))}
    keys = {"dataset": "t", "reader": "mat", "mat": {"times": "t"}}
    recipe = Recipe.model_validate({**keys, "covariates": {"path": "pos", "derivative": True}})
    recording = read_recording(write_mat(tmp_path / "a_1.mat", values), recipe)
    assert np.isfinite(recording.covariates).all()


def test_a_sample_without_a_time_does_not_hide_the_clock_of_the_others():
    times = (10_000 + np.arange(3600) / 60).astype(np.float32).astype(np.float64)
    expected, period, error = stamped_times(times)
    times[500] = np.nan
    found, *rest = stamped_times(times)
    assert rest == [period, error]
    np.testing.assert_array_equal(np.delete(found, 500), np.delete(expected, 500))
    assert np.isnan(found[500])
    assert np.isnan(times[500])

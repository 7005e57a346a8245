"""Defects of other loaders that ours must not have, each by what would go wrong, to the sample."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.nwb.nwb_covariates import not_held
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.options import CovariatesRecipe

BIN_S = 0.02
SECONDS = 20.0
VELOCITY = "processing/behavior/vel"
STARTS = (0.0, 1234.56)
"""Starts of a recording: alignment must hold on any clock."""


@pytest.fixture
def make(tmp_path):
    """Write a file: (units by electrode, what else) -> its path."""
    from pynwb import NWBHDF5IO, NWBFile

    def write(fill, units=(), electrode_ids=(0, 1), of_electrode=None, observed=None) -> Path:
        nwb = NWBFile(
            session_description="test",
            identifier="id",
            session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
            session_id="01",
        )
        device = nwb.create_device(name="array")
        group = nwb.create_electrode_group(
            name="M1", description="array", location="M1", device=device
        )
        for id_ in electrode_ids:
            nwb.add_electrode(id=id_, group=group, location="M1")
        for row, times in enumerate(units):
            more = {} if observed is None else {"obs_intervals": observed}
            electrode = row if of_electrode is None else of_electrode[row]
            nwb.add_unit(spike_times=np.asarray(times, float), electrodes=[electrode], **more)
        nwb.create_processing_module(name="behavior", description="hand")
        fill(nwb)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.nwb"
        with NWBHDF5IO(path, "w") as out:
            out.write(nwb)
        return path

    return write


def series(name: str, data, unit: str = "cm/s", **times):
    from pynwb import TimeSeries

    return TimeSeries(name=name, data=np.asarray(data), unit=unit, **times)


def behave(*all_series):
    """What puts series into the behaviour of a file."""
    return lambda nwb: [nwb.processing["behavior"].add(s) for s in all_series]


def steady(start_s: float = 0.0, seconds: float = SECONDS) -> np.ndarray:
    """Spikes in the middle of every tenth bin."""
    return start_s + np.arange(0.01, seconds, 0.2)


def recipe_of(validity=None, spikes=None, bin_size_ms=20, **covariates) -> Recipe:
    return Recipe.model_validate(
        {
            "dataset": "t",
            "bin_size_ms": bin_size_ms,
            "spikes": spikes or {},
            "covariates": {"path": VELOCITY, "quantile": 1.0, **covariates},
            "validity": validity or {},
        }
    )


def windows_of(path: Path, recipe: Recipe) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """First bin of each window -> its spikes, and its covariates in the file's unit."""
    session, samples = cut(read_nwb(path, recipe), recipe, "a.nwb", "0" * 64)
    scale = np.array([c.scale for c in session.covariates])

    def load(members, name):
        return np.load(io.BytesIO(members[name]))

    return {
        fields["start_bin"]: (load(members, "spikes"), load(members, "covariates") * scale)
        for _, _, members, fields in samples
    }


def laid_out(windows) -> tuple[np.ndarray, np.ndarray]:
    """Spikes and covariates of a session whose windows leave no hole."""
    parts = [windows[start] for start in sorted(windows)]
    return tuple(np.concatenate([p[i] for p in parts]) for i in (0, 1))


def moving(samples: int, dims: int = 1) -> np.ndarray:
    """Values that are nowhere constant, so that no window is rejected."""
    return np.random.default_rng(0).standard_normal((samples, dims))


@pytest.mark.parametrize("start_s", STARTS)
def test_the_first_bin_does_not_swallow_spikes_from_before_the_recording(make, start_s):
    early = np.r_[start_s - 0.3, start_s - 0.02, start_s - 1e-4, steady(start_s)]
    vel = series("vel", moving(1000), rate=50.0, starting_time=start_s)
    spikes, _ = laid_out(windows_of(make(behave(vel), [early, steady(start_s)]), recipe_of()))
    assert spikes[0].tolist() == [1, 1]
    assert spikes.sum() == 2 * len(steady())


@pytest.mark.parametrize("start_s", STARTS)
@pytest.mark.parametrize("stamped", ["start", "end"])
@pytest.mark.parametrize("clock", ["rate", "timestamps"])
def test_an_impulse_meets_the_spike_of_its_own_bin_however_bins_are_stamped(
    make, start_s, stamped, clock
):
    """Bin 123 begins at 2.46 s and ends at 2.48 s: its sample says one or the other."""
    values = moving(1000)
    values[123] = 100.0
    first = start_s + (BIN_S if stamped == "end" else 0.0)
    times = {"rate": 50.0, "starting_time": first}
    if clock == "timestamps":
        times = {"timestamps": first + np.arange(1000) * BIN_S}
    spike = [start_s + 123.5 * BIN_S]
    path = make(behave(series("vel", values, **times)), [steady(start_s), spike])
    spikes, covariates = laid_out(windows_of(path, recipe_of(stamped=stamped)))
    assert np.flatnonzero(spikes[:, 1]).tolist() == [123]
    assert np.flatnonzero(covariates[:, 0] > 50).tolist() == [123]
    np.testing.assert_allclose(covariates, values, rtol=1e-6)


@pytest.mark.parametrize("stamped", ["start", "end"])
def test_counts_and_covariates_of_one_bin_stay_together(make, stamped):
    counts = np.zeros((1000, 3), np.uint8)
    counts[::10, 0] = 1
    counts[123, 2] = 7
    values = moving(1000)
    values[123] = 100.0
    stamps = 5.0 + BIN_S * (stamped == "end") + np.arange(1000) * BIN_S

    def fill(nwb):
        nwb.add_acquisition(series("binned_spikes", counts, "count", timestamps=stamps))
        behave(series("vel", values, rate=50.0, starting_time=5.0))(nwb)

    binned = {"kind": "counts", "path": "acquisition/binned_spikes", "stamped": stamped}
    spikes, covariates = laid_out(windows_of(make(fill), recipe_of(spikes=binned)))
    np.testing.assert_array_equal(spikes, counts)
    assert np.flatnonzero(covariates[:, 0] > 50).tolist() == [123]


@pytest.mark.parametrize("extra", [1, 7, 19])
def test_what_is_over_at_the_end_is_cut_at_the_end_of_both(make, extra):
    """Defect: one loader crops the head and another the tail of a length that is no multiple."""
    values = np.zeros((20_000 + extra, 1))
    values[0], values[5000] = 20.0, 40.0
    values += 1e-3 * moving(len(values))
    units = [steady(), [0.0005], [5.0005]]
    path = make(behave(series("vel", values, rate=1000.0)), units, (0, 1, 2))
    spikes, covariates = laid_out(windows_of(path, recipe_of()))
    assert len(spikes) == len(covariates) == 1000
    assert np.flatnonzero(covariates[:, 0] > 0.5).tolist() == [0, 250]
    assert [np.flatnonzero(spikes[:, c]).tolist() for c in (1, 2)] == [[0], [250]]


@pytest.mark.parametrize("clock", ["own", "covariates"])
@pytest.mark.parametrize("stamped", ["start", "end"])
def test_a_mask_covers_exactly_its_samples_in_every_window(make, clock, stamped):
    mask = np.ones(1000, np.int8)
    mask[130:171] = mask[398:400] = 0
    times = {"timestamps": 3.0 + np.arange(1000) * BIN_S}
    own = times if clock == "own" else {"rate": 1.0}  # as senseless as where nobody reads it

    def fill(nwb):
        behave(series("vel", moving(1000, 2), **times))(nwb)
        nwb.add_acquisition(series("eval_mask", mask, "bool", **own))

    rule = {"mask": "acquisition/eval_mask", "clock": clock}
    path = make(fill, [steady(3.0)])
    windows = windows_of(path, recipe_of(rule, stamped=stamped))
    assert sorted(windows) == list(range(0, 1000, 100))
    _, covariates = laid_out(windows)
    np.testing.assert_array_equal(np.isfinite(covariates).all(axis=1), mask == 1)
    np.testing.assert_array_equal(np.isnan(covariates).all(axis=1), mask == 0)
    turned = windows_of(path, recipe_of({**rule, "invert": True}, stamped=stamped))
    np.testing.assert_array_equal(np.isfinite(laid_out(turned)[1][:, 0]), mask == 0)


def test_no_window_crosses_a_sample_that_a_mask_does_not_have(make):
    stamps = np.delete(np.arange(1000) * BIN_S, 450)

    def fill(nwb):
        behave(series("vel", moving(1000), rate=50.0))(nwb)
        nwb.add_acquisition(series("eval_mask", np.ones(999, int), "bool", timestamps=stamps))

    rule = {"mask": "acquisition/eval_mask", "outside": "cut"}
    found = windows_of(make(fill, [steady()]), recipe_of(rule))
    assert sorted(found) == [0, 100, 200, 300, 451, 551, 651, 751, 851]


def trials_of(*rows):
    """Adds trials (start, stop, result, bad) to a file."""

    def fill(nwb):
        nwb.add_trial_column("result", "outcome")
        nwb.add_trial_column("bad", "flag")
        nwb.add_trial_column("go", "may be absent")
        for start, stop, result, bad in rows:
            go = np.nan if result == "A" else start + 0.5
            nwb.add_trial(start_time=start, stop_time=stop, result=result, bad=bad, go=go)

    return fill


TRIALS = ((1.0, 4.0, "R", 0), (5.0, 9.0, "F", 0), (10.0, 13.0, "R", 1), (14.0, 19.0, "A", 0))


@pytest.mark.parametrize(
    ("rule", "valid"),
    [
        ({"column": "result", "values": ["R"]}, [(50, 200), (500, 650)]),
        ({"column": "result", "values": ["F", "A"]}, [(250, 450), (700, 950)]),
        ({"column": "bad", "values": ["1"]}, [(500, 650)]),
        ({"column": "bad", "values": ["1"], "before_ms": 100, "after_ms": -200}, [(495, 640)]),
        ({"start": "go"}, [(75, 200), (275, 450), (525, 650)]),
        ({}, [(50, 200), (250, 450), (500, 650), (700, 950)]),
    ],
)
def test_covariates_outside_the_trials_that_count_are_masked_and_spikes_are_not(make, rule, valid):
    values = moving(1000)

    def fill(nwb):
        trials_of(*TRIALS)(nwb)
        behave(series("vel", values, rate=50.0))(nwb)

    path = make(fill, [steady()])
    spikes, covariates = laid_out(windows_of(path, recipe_of({"table": "trials", **rule})))
    expected = np.zeros(1000, bool)
    for first, last in valid:
        expected[first:last] = True
    np.testing.assert_array_equal(np.isfinite(covariates[:, 0]), expected)
    assert spikes.sum() == len(steady())


def test_windows_are_cut_only_inside_trials_where_the_recipe_says_so(make):
    def fill(nwb):
        trials_of((1.003, 5.1, "R", 0), (6.0, 7.0, "R", 0), (9.0, 13.0, "R", 0))(nwb)
        behave(series("vel", moving(2000) + np.arange(2000)[:, None], rate=100.0))(nwb)

    rule = {"table": "trials", "outside": "cut"}
    path, recipe = make(fill, [steady()]), recipe_of(rule)
    session, samples = cut(read_nwb(path, recipe), recipe, "a.nwb", "0" * 64)
    # 1.003 s is inside bin 50: the first whole bin is 51. The trial of 1 s holds no window.
    assert [s[3]["start_bin"] for s in samples] == [51, 151, 450, 550]
    assert session.windows["train"].rejected == {"too_short": 2}
    # The scale is the largest value that a window may show, and not that of the end of the file.
    assert session.covariates[0].scale == pytest.approx(1300, abs=5)


def test_scales_do_not_see_the_test_part_of_a_file(make):
    values = moving(1000)
    values[800:] *= 1000
    path = make(behave(series("vel", values, rate=50.0)), [steady()])
    rule = {"intervals": {"train": (0, 0.8), "test": (0.8, 1)}}
    recipe = Recipe.model_validate({**recipe_of().model_dump(), "splits": [rule]})
    session, _ = cut(read_nwb(path, recipe), recipe, "a.nwb", "0" * 64)
    assert session.covariates[0].scale == pytest.approx(np.abs(values[:800]).max())


def test_what_moves_faster_than_the_bins_is_averaged_and_not_aliased(make):
    """Every 40th sample of a 50 Hz sine at 2 kHz is the same number; its mean in a bin is 0."""
    t = np.arange(40_000) / 2000
    slow = np.sin(2 * np.pi * 0.5 * t)
    fast = 5 * np.sin(2 * np.pi * 50 * t + 1.0)
    path = make(behave(series("vel", slow + fast, rate=2000.0)), [steady()])
    _, covariates = laid_out(windows_of(path, recipe_of()))
    np.testing.assert_allclose(covariates[:, 0], slow.reshape(-1, 40).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("start_s", STARTS)
def test_a_rate_that_holds_the_period_is_read_where_said_and_else_refused(make, start_s):
    values = moving(1000)
    wrong = series("vel", values, rate=0.02, offset=start_s)
    path = make(behave(wrong), [steady(start_s)])
    with pytest.raises(BadInput, match=r"vel: 1000 samples at rate 0.02 last 50000 s.*=true"):
        read_nwb(path, recipe_of())
    said = recipe_of(rate_is_period=True, offset_is_start=True)
    recording = read_nwb(path, said)
    np.testing.assert_allclose(recording.covariate_times, start_s + np.arange(1000) * BIN_S)
    np.testing.assert_array_equal(recording.covariates, values)  # no offset added to them
    right = make(behave(series("vel", values, rate=50.0)), [steady()])
    with pytest.raises(BadInput, match=r"at rate 50 last 50000 s.*rate_is_period=false"):
        read_nwb(right, recipe_of(rate_is_period=True))


def test_bins_before_the_first_spike_are_kept_in_spikes_and_covariates(make):
    values = moving(1000)
    path = make(behave(series("vel", values, rate=50.0)), [steady()[steady() > 1.1]])
    spikes, covariates = laid_out(windows_of(path, recipe_of()))
    assert np.flatnonzero(spikes[:, 0])[0] == 60
    np.testing.assert_allclose(covariates, values, rtol=1e-6)


def test_a_channel_is_its_electrode_id_whatever_the_order_and_whoever_is_silent(make):
    """Two sessions of an array; the second is listed in another order, with electrode 3 silent."""
    times = {1: steady(), 3: steady() + 0.02, 7: steady() + 0.04, 12: steady() + 0.06}

    def vel(nwb):
        behave(series("vel", moving(1000), rate=50.0))(nwb)

    one = make(vel, [times[i] for i in (1, 3, 7, 12)], (1, 3, 7, 12))
    other = make(vel, [times[i] for i in (12, 7, 1)], (7, 12, 1, 3), of_electrode=(1, 0, 2))
    spikes, again = (laid_out(windows_of(p, recipe_of()))[0] for p in (one, other))
    assert spikes.shape == again.shape == (1000, 4)
    assert spikes[:, 1].any()
    assert not again[:, 1].any()
    np.testing.assert_array_equal(spikes[:, [0, 2, 3]], again[:, [0, 2, 3]])


def test_events_find_the_channel_of_their_electrode_id(make):
    ids = np.array([9, 4, 9, 2, 4, 9])
    stamps = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 19.0])

    def fill(nwb):
        nwb.add_acquisition(series("crossings", ids, "id", timestamps=stamps))
        behave(series("vel", moving(1000), rate=50.0))(nwb)

    events = {"kind": "events", "path": "acquisition/crossings"}
    found = read_nwb(make(fill, (), (9, 2, 4, 5)), recipe_of(spikes=events)).spike_times
    assert [t.tolist() for t in found] == [[0.4], [0.2, 0.5], [], [0.1, 0.3, 19.0]]
    with pytest.raises(BadInput, match=r"crossings has events of channel 9, which is none"):
        read_nwb(make(fill, (), (2, 4)), recipe_of(spikes=events))
    with pytest.raises(BadInput, match=r"spikes\.num_channels"):
        read_nwb(make(fill, (), ()), recipe_of(spikes=events))
    counted = {**events, "num_channels": 9, "first_channel": 1}
    found = read_nwb(make(fill, (), ()), recipe_of(spikes=counted)).spike_times
    assert [len(t) for t in found] == [0, 1, 0, 2, 0, 0, 0, 0, 3]


def test_spike_event_series_are_events_of_the_electrode_that_they_name(make):
    from pynwb.ecephys import SpikeEventSeries

    def fill(nwb):
        behave(series("vel", moving(1000), rate=50.0))(nwb)
        for name, row, t in (("b", 0, [0.5, 0.6]), ("a", 2, [19.0])):
            region = nwb.create_electrode_table_region([row], "one")
            nwb.add_acquisition(
                SpikeEventSeries(
                    name=name,
                    data=np.ones((len(t), 1, 8)),
                    timestamps=np.array(t),
                    electrodes=region,
                )
            )

    events = {"kind": "events", "path": ["acquisition/a", "acquisition/b"]}
    found = read_nwb(make(fill, (), (0, 1, 2)), recipe_of(spikes=events)).spike_times
    assert [t.tolist() for t in found] == [[0.5, 0.6], [], [19.0]]


@pytest.mark.parametrize("seam", ["gap", "nan", "trials"])
def test_a_derivative_has_no_spurious_sample_at_a_seam(make, seam):
    """Position at 3 cm/s whose zero is another one in each block: a jump of 50 cm at the seam."""
    t = np.arange(20_000) / 1000
    position = 3 * t + 50.0 * (t >= 8)
    rule, at = {}, t
    if seam == "gap":
        at = t + 0.5 * (t >= 8)
    elif seam == "nan":
        position[7999] = np.nan
    else:
        rule = {"table": "trials"}

    def fill(nwb):
        trials_of((0.0, 7.99, "R", 0), (8.0, 20.0, "R", 0))(nwb)
        behave(series("vel", position, "cm", timestamps=at))(nwb)

    path = make(fill, [steady()])
    recording = read_nwb(path, recipe_of(rule, derivative=True))
    finite = np.isfinite(recording.covariates)
    np.testing.assert_allclose(recording.covariates[finite], 3, rtol=1e-6)
    assert finite.sum() == {"gap": 20_000, "nan": 19_999, "trials": 19_990}[seam]
    assert recording.covariate_unit == "cm/s"


@pytest.mark.parametrize("start_s", STARTS)
def test_a_derivative_is_centred_on_its_sample_on_an_irregular_clock(make, start_s):
    steps = np.random.default_rng(1).uniform(0.004, 0.012, 2400)
    t = start_s + np.cumsum(steps)
    path = make(behave(series("vel", (t - start_s) ** 2, "m", timestamps=t)), [steady(start_s)])
    found = read_nwb(path, recipe_of(derivative=True)).covariates[1:-1, 0]
    np.testing.assert_allclose(found, 2 * (t - start_s)[1:-1], rtol=1e-6)


def test_values_that_a_faster_clock_holds_give_the_velocity_of_the_sensor(make):
    """A 60 Hz tracker read at 1 kHz, at rest for 1.5 s: no spikes of velocity, and a true zero."""
    t = np.arange(20_000) / 1000
    sensor = np.floor(t * 60 + 1e-9) / 60
    position = 10 * np.sin(sensor)
    resting = (t >= 10.5) & (t < 12)
    position[resting] = position[10_500]
    path = make(behave(series("vel", position, "cm", rate=1000.0)), [steady()])
    raw = read_nwb(path, recipe_of(derivative=True)).covariates
    assert np.nanmax(np.abs(raw)) > 50  # what is to be avoided
    _, binned = laid_out(windows_of(path, recipe_of(derivative=True, drop=["held_values"])))
    centres = (np.arange(1000) + 0.5) * BIN_S
    assert np.isfinite(binned[1:-2]).all()
    for first, last in ((2, 523), (605, 998)):
        found = binned[first:last, 0]
        np.testing.assert_allclose(found, 10 * np.cos(centres[first:last]), atol=0.3)
    np.testing.assert_allclose(binned[528:595, 0], 0, atol=1e-6)


def test_no_held_sample_is_kept_right_before_a_change():
    """It would make the derivative that of the clock: here a change comes 3 ms after a beat."""
    times = np.arange(1000) / 1000
    values = (np.arange(1000) // 20).astype(float)  # 50 Hz
    values[300:783] = values[300]
    values[783:] = values[300] + 1 + (np.arange(217) // 20)
    kept = np.flatnonzero(not_held(times, values[:, None]))
    assert 783 in kept
    assert (np.diff(kept) >= 10).all()
    assert (np.diff(kept) <= 40).all()  # and at rest the sensor's own pace is kept


def test_samples_with_a_time_again_are_dropped_where_said_and_else_refused(make):
    times = np.arange(1000) * BIN_S
    times[[10, 400]] = times[[9, 398]]
    path = make(behave(series("vel", moving(1000), timestamps=times)), [steady()])
    with pytest.raises(BadInput, match="vel: timestamps are not strictly ascending"):
        read_nwb(path, recipe_of())
    kept = read_nwb(path, recipe_of(drop=["repeated_times"])).covariate_times
    assert len(kept) == 998
    assert (np.diff(kept) > 0).all()


def test_time_in_which_no_unit_was_observed_is_no_silence(make):
    """Windows stay inside obs_intervals, those of all units together."""
    observed = [[0.0, 4.5], [4.5005, 7.0], [10.01, 16.1]]
    path = make(behave(series("vel", moving(1000), rate=50.0)), [steady()], observed=observed)
    assert sorted(windows_of(path, recipe_of())) == [0, 100, 200, 501, 601, 701]


def counts_file(make, counts, **times):
    def fill(nwb):
        nwb.add_acquisition(series("binned_spikes", counts, "count", **times))

    return make(fill)


def counts_recipe(bin_size_ms=20) -> Recipe:
    spikes = {"kind": "counts", "path": "acquisition/binned_spikes"}
    return recipe_of(spikes=spikes, bin_size_ms=bin_size_ms, path="")


def test_counts_are_summed_exactly_or_refused(make):
    counts = np.random.default_rng(0).poisson(2, (4000, 5)).astype(np.uint8)
    path = counts_file(make, counts, rate=100.0)
    spikes, _ = laid_out(windows_of(path, counts_recipe()))
    np.testing.assert_array_equal(spikes, counts.reshape(2000, 2, 5).sum(axis=1))
    with pytest.raises(BadInput, match=r"counts of 10 ms.*not to bin_size_ms 25"):
        windows_of(path, counts_recipe(25))
    with pytest.raises(BadInput, match=r"counts of 10 ms.*not to bin_size_ms 5"):
        windows_of(path, counts_recipe(5))


def test_counts_above_255_are_refused_by_name_and_never_wrap(make):
    counts = np.ones((400, 3), np.int16)
    counts[100:102, 2] = 128
    path = counts_file(make, counts, rate=100.0)
    with pytest.raises(BadInput, match=r"channel 2 has 256 spikes in the bin at 1\.000 s"):
        windows_of(path, counts_recipe())
    counts[101, 2] = 127
    spikes, _ = laid_out(windows_of(counts_file(make, counts, rate=100.0), counts_recipe()))
    assert spikes[50].tolist() == [2, 2, 255]
    counts[7, 1] = 300
    with pytest.raises(BadInput, match="has 300 spikes in bin 7, channel 1"):
        windows_of(counts_file(make, counts, rate=100.0), counts_recipe())


def test_no_window_crosses_a_hole_between_counts_and_every_count_keeps_its_bin(make):
    """Three stretches, the second half a bin out of step; a clock that rounds to 0.1 ms."""
    counts = np.random.default_rng(0).poisson(2, (770, 4)).astype(np.uint8)
    stamps = np.arange(770) * BIN_S
    stamps[250:] += 0.51
    stamps[520:] += 1.0
    path = counts_file(make, counts, timestamps=np.round(stamps, 4))
    windows = windows_of(path, counts_recipe())
    assert sorted(windows) == [0, 100, 276, 376, 596, 696]
    for first, row in ((0, 0), (100, 100), (276, 250), (376, 350), (596, 520), (696, 620)):
        np.testing.assert_array_equal(windows[first][0], counts[row : row + 100])


def test_series_side_by_side_have_one_clock_and_keep_their_names_and_units(make):
    vel = series("vel", moving(1000, 2), rate=50.0)
    force = series("force", moving(1000), "N", rate=50.0)
    late = series("late", moving(1000), rate=50.0, starting_time=0.02)
    path = make(behave(vel, force, late), [steady()])
    both = ["processing/behavior/vel", "processing/behavior/force"]
    recording = read_nwb(path, recipe_of(path=both))
    assert recording.covariate_names == ("vel_x", "vel_y", "force")
    assert recording.covariate_units == ("cm/s", "cm/s", "N")
    recipe = recipe_of(path=both, columns=[2, 0], names=["grip", "x"])
    session, _ = cut(read_nwb(path, recipe), recipe, "a.nwb", "0" * 64)
    assert [(c.name, c.unit) for c in session.covariates] == [("grip", "N"), ("x", "cm/s")]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"spikes": {"kind": "counts"}}, "takes the path of a series"),
        ({"spikes": {"path": "acquisition/x"}}, "takes no path"),
        ({"validity": {"column": "result"}}, "needs a table"),
        ({"validity": {"table": "trials"}}, "say outside: cut"),
        ({"validity": {"mask": "m", "outside": "cut", "clock": "covariates"}}, "there are none"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({"dataset": "t", **recipe})


def test_defaults_take_every_sample_as_it_is():
    assert CovariatesRecipe().drop == []
    assert not CovariatesRecipe().derivative

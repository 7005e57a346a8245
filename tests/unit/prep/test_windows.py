"""Windows lie inside their interval, scales come from what may be fitted, rejection is counted."""

import io
import warnings

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe, SplitRule
from ndt3_dist.prep.windows import cut, label_intervals
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import Array

BIN_S, WINDOW = 0.02, 100


def make_recording(bins: int, seed: int = 0, arrays=(("M1", 40), ("PMd", 8))) -> Recording:
    """A recording on a clock of its own, one covariate sample a bin."""
    rng = np.random.default_rng(seed)
    start_s, seconds = 5.0, bins * BIN_S
    channels = sum(n for _, n in arrays)
    return Recording(
        subject="A",
        session="01",
        spike_times=[
            np.sort(start_s + rng.uniform(0, seconds, int(10 * seconds))) for _ in range(channels)
        ],
        arrays=[Array(name=name, channels=n) for name, n in arrays],
        start_s=start_s,
        stop_s=start_s + seconds,
        covariate_times=start_s + np.arange(bins) * BIN_S,
        covariates=rng.standard_normal((bins, 2)) * [3.0, 50.0],
        covariate_names=("x", "y"),
        covariate_unit="cm/s",
    )


def recipe_of(unit: str = "fraction", **intervals) -> Recipe:
    return Recipe(dataset="t", splits=[SplitRule(unit=unit, intervals=intervals)])


def arrays_of(sample) -> tuple[np.ndarray, np.ndarray]:
    """Spikes and covariates of a sample of `cut`."""
    return tuple(np.load(io.BytesIO(sample[2][name])) for name in ("spikes", "covariates"))


def silence(recording: Recording, first: int, last: int) -> None:
    """Remove all spikes of bins [first, last)."""
    start, stop = (recording.start_s + b * BIN_S for b in (first, last))
    recording.spike_times = [t[(t < start) | (t >= stop)] for t in recording.spike_times]


def test_windows_never_cross_the_border_of_an_interval():
    recipe = recipe_of("s", train=(0, 7), val=(7, 11.5), test=(11.5, None))
    session, samples = cut(make_recording(830), recipe, "a.nwb", "0" * 64)
    borders = {i.split: (i.start_bin, i.stop_bin) for i in session.intervals}
    assert borders == {"train": (0, 350), "val": (350, 575), "test": (575, 830)}
    spans = [(s[0], s[3]["start_bin"], s[3]["start_bin"] + s[3]["bins"]) for s in samples]
    assert spans == [
        ("train", 0, 100),
        ("train", 100, 200),
        ("train", 200, 300),
        ("val", 350, 450),
        ("val", 450, 550),
        ("test", 575, 675),
        ("test", 675, 775),
        ("test", 775, 830),
    ]
    assert session.windows["train"].rejected == {"too_short": 1}
    assert session.windows["val"].rejected == {"too_short": 1}


def test_a_window_holds_the_bins_that_its_index_fields_claim():
    recording = make_recording(500)
    session, samples = cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)
    scale = np.array([c.scale for c in session.covariates])
    for split, key, _, fields in samples:
        spikes, covariates = arrays_of(samples[fields["start_bin"] // WINDOW])
        first = fields["start_bin"]
        assert (split, key) == ("train", f"t-A-01-{first:08d}")
        assert spikes.dtype == np.uint8
        assert covariates.dtype == np.float32
        start, stop = (recording.start_s + b * BIN_S for b in (first, first + WINDOW))
        held = [((t >= start - 1e-8) & (t < stop - 1e-8)).sum() for t in recording.spike_times]
        np.testing.assert_array_equal(spikes.sum(axis=0), held)
        np.testing.assert_allclose(
            covariates * scale, recording.covariates[first : first + WINDOW], rtol=1e-5
        )
        # 40 and 8 channels make 2 + 1 patches a bin, 2 covariates; 2 constraints and a return.
        assert fields["values"] == {"spikes": 100 * 48, "covariates": 200}
    assert len(samples) == 5
    assert session.spikes == sum(len(t) for t in recording.spike_times)
    assert session.spikes_outside == 0


def test_spikes_outside_the_bins_are_left_out_and_counted():
    recording = make_recording(250)
    recording.spike_times[3] = np.concatenate([[4.0, 4.99], recording.spike_times[3], [11.0]])
    session, _ = cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)
    assert session.spikes_outside == 3
    assert session.spikes == sum(len(t) for t in recording.spike_times) - 3


@pytest.mark.parametrize("fit", ["train", "calibration"])
def test_nothing_of_the_test_part_leaks_into_scales_or_windows_to_fit(fit):
    recipe = recipe_of(**{fit: (0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1)})
    before, after = make_recording(1000), make_recording(1000)
    after.covariates[600:] *= 40.0
    after.covariates[600:] += 1000.0
    after.spike_times = [t[t < after.start_s + 600 * BIN_S] for t in after.spike_times]
    results = [cut(r, recipe, "a.nwb", "0" * 64) for r in (before, after)]
    scales = [[c.scale.hex() for c in session.covariates] for session, _ in results]
    assert scales[0] == scales[1]
    fitted = [[s for s in samples if s[0] == fit] for _, samples in results]
    assert len(fitted[0]) == 6
    assert fitted[0] == fitted[1]  # keys, fields and member bytes
    tests = [[s[2] for s in samples if s[0] == "test"] for _, samples in results]
    assert len(tests[0]) == len(tests[1]) == 2
    assert tests[0] != tests[1]


def test_a_window_whose_finite_values_are_constant_is_rejected_whatever_is_missing():
    recording = make_recording(500)
    recording.covariates[100:200] = 7.0
    recording.covariates[130:150] = np.nan  # finite values are all alike
    recording.covariates[200:300, 0] = np.nan  # one dimension is missing, the other varies
    recording.covariates[300:400, 0] = np.nan
    recording.covariates[300:400, 1] = 3.0  # the other is constant
    recording.covariates[400:500] = np.nan  # kept for its spikes
    session, samples = cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)
    assert session.windows["train"].rejected == {"constant_covariates": 2}
    assert [s[3]["start_bin"] for s in samples] == [0, 200, 400]


def test_each_rejected_window_is_counted_under_its_reason():
    recording = make_recording(850)
    silence(recording, 100, 300)
    recording.covariates[400:500] = 7.0
    session, samples = cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)
    assert session.windows["train"].kept == len(samples) == 5
    assert session.windows["train"].rejected == {
        "no_spikes": 2,
        "constant_covariates": 1,
        "too_short": 1,
    }
    assert [s[3]["start_bin"] for s in samples] == [0, 300, 500, 600, 700]


def test_a_window_with_one_covariate_that_moves_is_kept():
    recording = make_recording(300)
    recording.covariates[100:200, 0] = 7.0
    session, _ = cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)
    assert session.windows["train"].rejected == {}


def test_a_window_without_valid_covariates_is_kept_for_its_spikes_without_a_warning():
    recording = make_recording(300)
    recording.covariates[100:200] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session, samples = cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)
    assert session.windows["train"].rejected == {}
    assert [s[3]["values"]["covariates"] for s in samples] == [200, 0, 200]
    assert np.isnan(arrays_of(samples[1])[1]).all()


def test_the_test_split_rejects_nothing_and_keeps_its_short_tail():
    recording = make_recording(850)
    silence(recording, 500, 600)
    recording.covariates[600:700] = 7.0
    recipe = recipe_of("s", train=(0, 10), test=(10, None))
    session, samples = cut(recording, recipe, "a.nwb", "0" * 64)
    assert session.windows["test"].kept == 4
    assert session.windows["test"].rejected == {}
    tests = [s for s in samples if s[0] == "test"]
    assert [(s[3]["start_bin"], s[3]["bins"]) for s in tests] == [
        (500, 100),
        (600, 100),
        (700, 100),
        (800, 50),
    ]
    assert sum(s[3]["bins"] for s in tests) == 350  # every test bin, once
    assert not arrays_of(tests[0])[0].any()


def test_a_recording_shorter_than_a_window_is_refused():
    recipe = recipe_of(train=(0, 1))
    with pytest.raises(BadInput, match=r"recording of 1\.98 s is shorter than a window \(2 s\)"):
        cut(make_recording(99), recipe, "a.nwb", "0" * 64)
    _, samples = cut(make_recording(100), recipe, "a.nwb", "0" * 64)
    assert len(samples) == 1


def test_a_recording_that_is_silent_between_its_first_and_last_bin_is_refused():
    recording = make_recording(300)
    recording.spike_times = [t - 100 for t in recording.spike_times]
    with pytest.raises(BadInput, match="zero spikes"):
        cut(recording, recipe_of(train=(0, 1)), "a.nwb", "0" * 64)


def test_covariates_without_an_interval_to_scale_from_are_refused():
    with pytest.raises(BadInput, match="no train or calibration interval"):
        cut(make_recording(300), recipe_of(test=(0, 1)), "a.nwb", "0" * 64)
    spikes_only = make_recording(300)
    spikes_only.covariates, spikes_only.covariate_names = np.zeros((0, 0)), ()
    session, samples = cut(spikes_only, recipe_of(test=(0, 1)), "a.nwb", "0" * 64)
    assert session.covariates == []
    assert arrays_of(samples[0])[1].shape == (100, 0)


def test_a_session_that_no_rule_matches_is_refused():
    recipe = Recipe(dataset="t", splits=[SplitRule(match="u-*", intervals={"train": (0, 1)})])
    with pytest.raises(BadInput, match="no split rule of the recipe matches session t-A-01"):
        cut(make_recording(300), recipe, "a.nwb", "0" * 64)


def test_intervals_are_clipped_to_the_session_and_empty_ones_left_out():
    recipe = recipe_of("s", test=(4, 300), train=(0, 4), val=(300, None))
    found = label_intervals("t-A-01", 500, recipe)
    assert [(i.split, i.start_bin, i.stop_bin) for i in found] == [
        ("train", 0, 200),
        ("test", 200, 500),
    ]
    found = label_intervals("t-A-01", 150, recipe)
    assert [(i.split, i.start_bin, i.stop_bin) for i in found] == [("train", 0, 150)]


def test_fractions_share_their_border_bin_with_nobody():
    for bins in range(100, 140):
        found = label_intervals("t-A-01", bins, recipe_of(train=(0, 0.77), test=(0.77, 1)))
        assert found[0].stop_bin == found[1].start_bin
        assert (found[0].start_bin, found[1].stop_bin) == (0, bins)

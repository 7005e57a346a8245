"""Samples and times that do not pair are refused by name, or left out and counted where said."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from mat_files import cell, write_mat
from recordings import refusal

from ndt3_dist import storage
from ndt3_dist.prep import job
from ndt3_dist.prep.progress import describe
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.read import read_recording
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import Session, fingerprint, read_manifest

VELOCITY = "processing/behavior/Velocity/cursor_vel"
NWB_YAML = Path(__file__).resolve().parents[3] / "data_prep" / "recipes" / "nwb.yaml"
COUNT = 1200
EVEN = np.arange(COUNT) / 100


def changed(*changes) -> np.ndarray:
    times = EVEN.copy()
    for at, value in changes:
        times[at] = value
    return times


WRONG = {
    # what is wrong: (times, samples that stay, words of the refusal)
    "twice": (changed((400, 3.99), (900, 8.99)), np.delete(np.arange(COUNT), [400, 900]),
              "3.9900 s (sample 400) after 3.9900 s; 2 of 1200 would have to go"),
    "swapped": (changed((400, 4.01), (401, 4.0)), np.delete(np.arange(COUNT), 401),
                "4.0000 s (sample 401) after 4.0100 s; 1 of 1200"),
    "back": (changed((700, 2.0)), np.delete(np.arange(COUNT), 700),
             "2.0000 s (sample 700) after 6.9900 s; 1 of 1200"),
    "ahead": (changed((100, 500.0)), np.delete(np.arange(COUNT), 100),
              "1.0100 s (sample 101) after 500.0000 s; 1 of 1200"),
    "ahead_at_the_end": (changed((1199, 5.0)), np.arange(1199),
                         "5.0000 s (sample 1199) after 11.9800 s; 1 of 1200"),
    "nan": (changed((3, np.nan)), np.delete(np.arange(COUNT), 3),
            "1 of 1200 are NaN or infinite (the first of sample 3); correct the file, or"),
    "nan_at_the_end": (changed(*((k, np.nan) for k in range(1170, 1200))), np.arange(1170),
                       "30 of 1200 are NaN or infinite (the first of sample 1170)"),
    "few_times": (EVEN[:1150], np.arange(1150), "1150 times, 1200 samples; correct the file, or"),
    "many_times": (np.arange(1203) / 100, np.arange(COUNT), "1203 times, 1200 samples; correct"),
    "few_and_twice": (changed((5, 0.04))[:1190], np.delete(np.arange(1190), 5),
                      "1190 times, 1200 samples"),
}  # fmt: skip
BEYOND = {
    "half_the_times": (EVEN[:600], "600 times, 1200 samples; expected one time a sample"),
    "two_blocks": (np.r_[EVEN[:600], EVEN[:600]], "600 of 1200 would have to go: sort them in"),
    "nan": (changed(*((k, np.nan) for k in range(121))), "121 of 1200 are NaN or infinite"),
    "ms": (changed() * 1000, "its timestamps span 11990 s"),
}


def recipe_of(repair="drop", validity=None, **covariates) -> Recipe:
    covariates = {"path": VELOCITY, "repair": repair, **covariates}
    told = {"dataset": "t", "covariates": covariates, "validity": validity or {}}
    return Recipe.model_validate(told)


@pytest.fixture
def stamped(write_session, tmp_path):
    """Write a recording whose velocity has these times, and the number of its sample as value."""

    def write(times, name="a") -> Path:
        values = np.column_stack([np.arange(COUNT), np.sin(np.arange(COUNT))])
        path = write_session(tmp_path / "nwb" / f"{name}.nwb", seed=0, covariates=values)
        with h5py.File(path, "a") as f:
            del f[f"{VELOCITY}/starting_time"]
            f[f"{VELOCITY}/timestamps"] = times
        return path

    return write


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_pair_is_refused_with_the_remedy_or_left_out_and_counted(stamped, name):
    times, stay, words = WRONG[name]
    path = stamped(times)
    said = refusal(path, recipe_of("refuse"))
    assert words in said
    assert said.endswith("correct the file, or say covariates.repair=drop")
    found = read_nwb(path, recipe_of())
    np.testing.assert_array_equal(found.covariates[:, 0], stay)
    np.testing.assert_array_equal(found.covariate_times, times[: len(found.covariates) + 9][stay])
    assert found.dropped_samples == max(COUNT, len(times)) - len(stay)
    assert (found.start_s, found.stop_s) == (0.0, pytest.approx(times[stay[-1]] + 0.01))


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_no_slip_is_refused_however_it_is_asked_for(stamped, name):
    times, words = BEYOND[name]
    path = stamped(times)
    assert words in refusal(path, recipe_of())
    assert "covariates.repair=drop" not in refusal(path, recipe_of("refuse"))


def test_repeated_times_of_older_recipes_are_left_out_however_many_and_counted(stamped):
    path = stamped(np.arange(COUNT) // 2 / 50)
    found = read_nwb(path, recipe_of("refuse", drop=["repeated_times"]))
    assert found.covariates[:, 0].tolist() == list(range(0, COUNT, 2))
    assert found.dropped_samples == 600
    assert "600 of 1200 would have to go" in refusal(path, recipe_of())


@pytest.mark.parametrize("clock", ["timestamps", "a rate"])
def test_data_whose_axes_are_the_other_way_round_are_called_so(stamped, clock):
    path = stamped(EVEN)
    with h5py.File(path, "a") as f:
        data = f[f"{VELOCITY}/data"][()].T
        unit = f[f"{VELOCITY}/data"].attrs["unit"]
        del f[f"{VELOCITY}/data"]
        f[f"{VELOCITY}/data"] = data
        f[f"{VELOCITY}/data"].attrs["unit"] = unit
        if clock == "a rate":
            del f[f"{VELOCITY}/timestamps"]
            f[f"{VELOCITY}/starting_time"] = 0.0
            f[f"{VELOCITY}/starting_time"].attrs["rate"] = 100.0
    for repair in ("refuse", "drop"):
        said = refusal(path, recipe_of(repair))
        assert f"{VELOCITY} has shape (2, 1200) and" in said
        assert f"{clock}; expected (samples, dims): it is transposed" in said


@pytest.mark.parametrize("clock", ["own", "covariates"])
@pytest.mark.parametrize("name", ["twice", "ahead", "few_times", "few_and_twice"])
def test_a_mask_stays_with_its_samples_where_others_are_left_out(stamped, name, clock):
    times, stay, _ = WRONG[name]
    path, mask = stamped(times), np.arange(COUNT) % 100 >= 5
    with h5py.File(path, "a") as f:
        group = f.create_group("acquisition/mask")
        group.attrs["neurodata_type"] = "TimeSeries"
        group["data"] = mask.astype(np.int8)
        if clock == "own":
            group["timestamps"] = times
        else:
            group["starting_time"] = 0.0
            group["starting_time"].attrs["rate"] = 1.0
    rule = {"mask": "acquisition/mask", "clock": clock}
    found = read_nwb(path, recipe_of(validity=rule))
    np.testing.assert_array_equal(np.isfinite(found.covariates[:, 0]), mask[stay])


@pytest.mark.parametrize("name", WRONG)
def test_a_matlab_file_is_repaired_alike(tmp_path, name):
    times, stay, _ = WRONG[name]
    values = np.column_stack([np.arange(COUNT), np.sin(np.arange(COUNT))])
    fields = {"spikes": cell([EVEN[::7]]), "t": times, "vel": values}
    path = write_mat(tmp_path / "a_1.mat", fields)
    told = {"dataset": "t", "reader": "mat", "mat": {"times": "t"}}
    said = refusal(path, Recipe.model_validate({**told, "covariates": {"path": "vel"}}))
    assert said.endswith("correct the file, or say covariates.repair=drop")
    drop = Recipe.model_validate({**told, "covariates": {"path": "vel", "repair": "drop"}})
    found = read_recording(path, drop)
    np.testing.assert_array_equal(found.covariates[:, 0], stay)
    assert found.dropped_samples == max(COUNT, len(times)) - len(stay)


def test_the_count_is_in_the_log_and_the_manifest_and_others_keep_theirs(
    stamped, write_session, tmp_path, without_ray, capsys
):
    stamped(WRONG["twice"][0])
    write_session(tmp_path / "nwb" / "b.nwb", seed=1)

    def prepare(name, *more):
        keys = [f"source={tmp_path / 'nwb' / name}", f"out={tmp_path / 'out' / name}", "dataset=t"]
        recipe = load_recipe(NWB_YAML, [*keys, f"covariates.path={VELOCITY}", *more])
        job.prepare(recipe)
        return recipe, storage.read_json(tmp_path / "out" / name / "manifest.json")

    _, told = prepare("a.nwb", "covariates.repair=drop")
    assert (
        "6 train windows, 0 rejected; 2 covariate samples or times left out"
        in capsys.readouterr().out
    )
    assert told["sessions"][0]["dropped_samples"] == 2
    manifest = read_manifest(str(tmp_path / "out" / "a.nwb"))
    assert manifest.sessions[0].dropped_samples == 2
    assert told["recipe"]["covariates"]["repair"] == "drop"
    recipe, told = prepare("b.nwb")
    assert "left out" not in capsys.readouterr().out
    assert "dropped_samples" not in told["sessions"][0]
    assert "repair" not in told["recipe"]["covariates"]
    assert recipe.sha256() != recipe_of().sha256()
    # What is only of a source is no part of what a corpus is.
    others = [s.model_copy(update={"dropped_samples": 7}) for s in manifest.sessions]
    args = manifest.shards, manifest.bin_size_ms, manifest.window_bins
    assert fingerprint(others, *args) == manifest.fingerprint


def test_a_default_recipe_has_the_hash_that_it_had():
    """Windows are dealt to shards by it."""
    told = Recipe(dataset="t").identity()
    assert set(told["covariates"]) == {
        "path", "columns", "stamped", "clock", "rate_is_period", "offset_is_start", "drop",
        "derivative", "names", "quantile", "max_gap_ms",
    }  # fmt: skip


def session(**changes) -> dict:
    told = {"id": "t-A-1", "dataset": "t", "subject": "A", "session": "1", "source": "a.nwb"}
    told |= {"source_sha256": "0" * 64, "licence": "x", "bins": 100, "start_s": 0.0, "arrays": []}
    told |= {"covariates": [], "intervals": [], "windows": {"train": {"kept": 1}}}
    told |= {"spikes": 9900, "spikes_outside": 0, **changes}
    return Session.model_validate(told).model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "notes", "line"),
    [
        ({}, [], "t-A-1: 1 train windows, 0 rejected"),
        ({"spikes_outside": 100}, [],
         "t-A-1: 1 train windows, 0 rejected; 100 of 10000 spikes (1 %) outside its bins"),
        ({"spikes_outside": 1, "dropped_samples": 3}, ["so"],
         "t-A-1: 1 train windows, 0 rejected; 1 of 9901 spikes (0.0101 %) outside its bins; "
         "3 covariate samples or times left out; so"),
    ],
)  # fmt: skip
def test_the_line_of_a_session_says_what_was_left_out(changes, notes, line):
    spool = {"session": session(**changes), "reused": False, "notes": notes}
    assert describe(spool) == line
    assert describe({"session": session(), "reused": True}).endswith("0 rejected (done before)")


def test_times_that_are_coarse_and_none_the_less_used_are_said():
    recording = Recording("A", "1", [], [], 0.0, 9.0, spike_error_s=2.0**-7)
    assert recording.notes(0.02) == ["its spike times are held to 0.0078 s"]
    assert recording.notes(0.2) == []
    recording.covariate_times, recording.covariate_error_s = np.arange(9) / 1000, 1e-4
    assert recording.notes(0.2) == ["its covariates' times are held to 0.0001 s"]
    recording.covariate_error_s = 1e-5
    assert recording.notes(0.2) == []

"""What MATLAB files are refused for, by reader: (what the file holds, what the recipe says, words).

None takes a field away. A file is written in both versions; the refusal is one line with its path.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mat_files import TRAINS, cell, fields, rtt, trials, write_mat, xds
from recordings import refusal

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.readers.read import read_recording

RECIPES = Path(__file__).resolve().parents[3] / "data_prep" / "recipes"
TIMES = {"mat": {"times": "t"}, "covariates": {"path": "vel"}}
T = np.arange(400) / 100


def counts(values) -> tuple[dict, dict]:
    """A file of counts alone, and its recipe."""
    return {"spikes": values}, {"mat": {"holds": "counts", "bin_ms": 10}}


def both(**mat) -> dict:
    """A recipe of counts beside a velocity."""
    return {"mat": {"holds": "counts", "bin_ms": 10, "times": "t", **mat}, **VEL}


VEL = {"covariates": {"path": "vel"}}
MAT: dict[str, tuple[dict, dict, str]] = {
    "missing": (fields(vel=None), TIMES, "has no field vel: the file has spikes, t"),
    "cell_of_text": (
        fields(spikes=cell(["a", "b"])), TIMES, "spikes{1,1} is the string 'a'",
    ),
    "nested_cell": (fields(spikes=cell([cell([1.0, 2.0])])), TIMES, "spikes{1,1} is a cell"),
    "no_cell": (
        fields(spikes=np.ones((4, 3))), TIMES, "spikes is an array of float64 of shape (4, 3)",
    ),
    "struct": (fields(spikes={"a": 1.0}), TIMES, "spikes is a struct"),
    "nan_spike": (
        fields(spikes=cell([TRAINS[0], np.array([1.0, np.nan])])), TIMES,
        "spikes{2,1} has 1 spike",
    ),
    "unsorted": (
        fields(spikes=cell([np.array([2.0, 1.0])])), TIMES,
        "spikes{1,1} has unsorted spike times",
    ),
    "matrix": (fields(spikes=cell([np.ones((3, 2))])), TIMES, "spikes{1,1} has shape (3, 2)"),
    "silent": (fields(spikes=cell([np.zeros(0)] * 3)), TIMES, "spikes has zero spikes"),
    "ms": (fields(spikes=cell([np.arange(200) * 20.0])), TIMES, "channel 0 has"),
    "nan_clock": (fields(t=np.r_[T[:399], np.nan]), TIMES, "t: 400 times are not strictly"),
    "back_clock": (fields(t=np.r_[T[:399], 0]), TIMES, "t: 400 times are not strictly"),
    "short_clock": (fields(t=T[:300]), TIMES, "vel: 400 samples, 300 times"),
    "turned": (fields(vel=np.ones((2, 400))), TIMES, "vel has 2 samples of 400 dims"),
    "text": (fields(vel="none"), TIMES, "vel is the string 'none'"),
    "negative_counts": (*counts(np.full((400, 3), -1.0)), "spikes has counts that are negative"),
    "half_counts": (*counts(np.full((400, 3), 0.5)), "spikes has counts that are negative, NaN or"),
    "nan_counts": (*counts(np.full((400, 3), np.nan)), "spikes has counts that are negative, NaN"),
    "huge_counts": (*counts(np.full((400, 3), 1e300)), "spikes has counts that are negative, NaN"),
    "turned_counts": (*counts(np.ones((3, 400))), "spikes has 3 bins of 400 channels"),
    "no_counts": (*counts(np.zeros((0, 0))), "spikes is empty"),
    "cell_of_counts": (*counts(cell(TRAINS)), "spikes is a cell"),
    "gap_in_bins": (
        fields(spikes=np.ones((400, 3)), bins=np.where(T > 2, T + 1, T)), both(bin_times="bins"),
        "bins: 400 times up to 1.000 s from a regular clock",
    ),
    "another_clock": (
        fields(spikes=np.ones((400, 3))), both(start_s=99),
        "400 of 400 covariate samples lie outside the counts",
    ),
    "no_bin_size": (
        fields(), {"mat": {"holds": "counts"}}, "counts in spikes need their bin size",
    ),
    "no_clock": (fields(), VEL, "either mat.times or mat.rate_hz"),
    "arrays": (
        fields(), {**TIMES, "mat": {"times": "t", "arrays": {"M1": 96}}}, "spikes has 3 channels",
    ),
    "columns": (
        fields(), {**TIMES, "covariates": {"path": "vel", "columns": [2]}},
        "vel: 2 dims; covariates.columns",
    ),
    "names": (
        fields(), {**TIMES, "covariates": {"path": "vel", "names": ["x"]}},
        "covariates.names has 1 names for 2 dimensions",
    ),
    "no_text": (fields(), {**TIMES, "mat": {"times": "t", "subject": "vel"}}, "vel is an array"),
}  # fmt: skip


def turned_units() -> dict:
    """Trials whose third has fewer units than the first."""
    values = trials()
    values["trial_data"][0, 2]["M1_spikes"] = np.ones((190, 29))
    return values


def two_subjects() -> dict:
    values = trials()
    values["trial_data"][0, 1]["monkey"] = "Mihi"
    return values


GAP = np.arange(4000) / 1000 + (np.arange(4000) > 2000)
SETS: dict[str, dict[str, tuple[dict, list[str], str]]] = {
    "odoherty_rtt": {
        "95_channels": (
            rtt(spikes=cell([np.ones(1)] * 95 * 2, (95, 2))), [], "spikes has shape (95, 2)",
        ),
        "turned": (
            rtt(spikes=cell([np.ones(1)] * 96 * 5, (5, 96))), [], "spikes has shape (5, 96)",
        ),
        "two_columns": (rtt(finger_pos=np.ones((1500, 2))), [], "finger_pos has shape (1500, 2)"),
        "short": (rtt(finger_pos=np.ones((1499, 3))), [], "finger_pos has shape (1499, 3)"),
        "nan_clock": (rtt(t=np.r_[100.0, np.full(1499, np.nan)]), [], "t: 1500 times"),
        "order": (
            rtt(chan_names=cell([f"S1 {c:03d}" for c in range(96)])), [],
            "chan_names{1,1} is 'S1 000'; expected M1, then S1",
        ),
        "missing": (rtt(finger_pos=None), [], "has no field finger_pos"),
        "silent": (rtt(spikes=cell([np.zeros(0)] * 96 * 2, (96, 2))), [], "zero spikes"),
    },
    "xds": {
        "no_clock": (xds(time_frame=None), [], "has no field xds.time_frame: xds has EMG"),
        "no_spikes": (xds(spikes=None), [], "has no field xds.spikes"),
        "missing": (xds(curs_v=None), [], "has no field xds.curs_v"),
        "short": (xds(curs_v=np.ones((7, 2))), [], "xds.curs_v has shape (7, 2)"),
        "bin_width": (xds(bin_width=0.02), [], "xds.bin_width is 0.02 s"),
        "nan_spike": (
            xds(spikes=cell([np.array([1.0, np.nan])])), [], "xds.spikes{1,1} has 1 spike times",
        ),
        "unsorted": (
            xds(spikes=cell([np.array([2.0, 1.0])])), [], "xds.spikes{1,1} has unsorted",
        ),
        "ms": (xds(spikes=cell([np.arange(500) * 20.0])), [], "channel 0 has"),
        "gap_in_counts": (
            xds(time_frame=GAP), ["mat.holds=counts"],
            "xds.time_frame: 4000 times up to 1.000 s from a regular clock",
        ),
        "names": (
            xds(EMG_names=cell(["FCR"])), ["covariates.path=EMG"], "xds.EMG_names has 1 names",
        ),
    },
    "pyaldata": {
        "short": (trials(vel=np.ones((3, 2))), [], "trial_data(1).vel has shape (3, 2)"),
        "text": (trials(vel="none"), [], "trial_data(1).vel is the string"),
        "half_counts": (
            trials(PMd_spikes=np.full((260, 3), 0.5)), [],
            "trial_data(1).PMd_spikes has counts that",
        ),
        "nan_counts": (
            trials(PMd_spikes=np.full((260, 3), np.nan)), [],
            "trial_data(1).PMd_spikes has counts that",
        ),
        "bins": (
            trials(PMd_spikes=np.ones((260, 3))), [], "trial_data(2): M1_spikes, PMd_spikes differ",
        ),
        "bin_size": (trials(bin_size=20.0), [], "trial_data.bin_size is [20.0]"),
        "units": (turned_units(), [], "trial_data(3) has other units"),
        "missing": (trials(), ["covariates.path=pos"], "has no field trial_data(1).pos"),
        "subjects": (two_subjects(), [], "trial_data.monkey has 2 values; expected one"),
        "no_trials": (
            {"trial_data": np.ones(3)}, ['mat.subject=""'], "trial_data is no struct array",
        ),
    },
}  # fmt: skip
"""By recipe: what is wrong -> (fields, overrides, words)."""


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize("name", MAT)
def test_fields_that_cannot_be_are_refused_by_name(name, version, tmp_path):
    values, keys, words = MAT[name]
    recipe = Recipe.model_validate({"dataset": "t", "reader": "mat", **keys})
    values = {k: v for k, v in values.items() if v is not None}
    assert words in refusal(write_mat(tmp_path / "a.mat", values, version), recipe)


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize(("set_", "name"), [(s, n) for s, rows in SETS.items() for n in rows])
def test_files_of_a_set_that_cannot_be_are_refused_by_field(set_, name, version, tmp_path):
    values, overrides, words = SETS[set_][name]
    values = {k: v for k, v in values.items() if v is not None}
    path = write_mat(tmp_path / "indy_20160407_02.mat", values, version)
    said = refusal(path, load_recipe(RECIPES / f"{set_}.yaml", overrides))
    assert words in said
    assert "Mihi" not in said  # who may have a pseudonym


UNUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mat_spikes": ({"reader": "mat", "spikes": {"channels": "unit"}}, r"mat does not use spikes\."),
    "mat_clock": (
        {"reader": "mat", "covariates": {"clock": "x"}}, r"mat does not use covariates\.clock",
    ),
    "rtt_path": (
        {"reader": "rtt", "covariates": {"path": "target_pos"}},
        r"rtt does not use covariates\.path",
    ),
    "mat_derivative_that_looks_ahead": (
        {"reader": "mat", "covariates": {"path": "p", "derivative": True, "causal": True}},
        r"mat does not use covariates\.causal",
    ),
    "rtt_causal": (
        {"reader": "rtt", "covariates": {"causal": True}}, r"rtt does not use covariates\.causal",
    ),
    **{
        f"{reader}_repair": (
            {"reader": reader, "covariates": {"repair": "drop"}},
            r"does not use covariates\.repair",
        )
        for reader in ("rtt", "xds", "pyaldata")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSED)
def test_keys_that_a_reader_does_not_use_are_refused_before_a_file_is_opened(name, tmp_path):
    keys, words = UNUSED[name]
    with pytest.raises(BadInput, match=words):
        read_recording(tmp_path / "a.mat", Recipe.model_validate({"dataset": "t", **keys}))


@pytest.mark.parametrize("reader", ["mat", "xds", "pyaldata", "rtt"])
def test_how_covariates_become_bins_is_said_for_every_reader(reader, tmp_path):
    said = {"resample": "mean"} | ({} if reader == "rtt" else {"causal": True})
    keys = {"dataset": "t", "reader": reader, "covariates": said}
    assert "no such file" in refusal(tmp_path / "a.mat", Recipe.model_validate(keys))


def test_other_files_are_refused(tmp_path):
    path, recipe = tmp_path / "a.mat", Recipe.model_validate({"dataset": "t", "reader": "mat"})
    assert "no such file" in refusal(path, recipe)
    path.write_text("spikes, velocity\n" * 100)
    assert "not a MATLAB file" in refusal(path, recipe)

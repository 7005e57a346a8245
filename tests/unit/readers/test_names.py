"""Columns of covariates have the recipe's names, else the file's, else x, y, z in space alone."""

import h5py
import numpy as np
import pytest
from mat_files import cell, struct_array, write_mat

from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.column_names import column_names, tidy
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.read import read_recording

SAMPLES = 400


@pytest.mark.parametrize(
    ("name", "holder", "dims", "expected"),
    [
        ("cursor_vel", "Velocity", 2, "x y"),
        ("cursor_vel", "Velocity", 3, "x y z"),
        ("cursor_vel", "Velocity", 1, "cursor_vel"),
        ("cursor_vel", "Velocity", 4, "dim0 dim1 dim2 dim3"),
        ("hand", "Position", 2, "x y"),
        ("handVel", "", 2, "x y"),
        ("fingerPos", "kin", 3, "x y z"),
        ("VelXY", "", 2, "x y"),
        ("curs_v", "", 2, "x y"),
        ("posture", "", 2, "dim0 dim1"),
        ("level", "behavior", 2, "dim0 dim1"),
        ("joint_vel", "behavior", 3, "dim0 dim1 dim2"),
        ("EMGposition", "behavior", 2, "dim0 dim1"),
        ("force", "Velocity", 2, "dim0 dim1"),
        ("grip_force", "behavior", 1, "grip_force"),
        ("emg", "behavior", 16, " ".join(f"dim{d}" for d in range(16))),
        ("OpenLoopKinematicsVelocity", "acquisition", 7, " ".join(f"dim{d}" for d in range(7))),
    ],
)
def test_a_series_is_in_space_where_its_name_says_so(name, holder, dims, expected):
    assert column_names(name, dims, holder) == tuple(expected.split())


def test_a_spatial_series_is_in_space_unless_its_name_says_otherwise():
    assert [column_names("Hand", d, "Position", spatial=True) for d in (1, 3)] == [
        ("x",),
        ("x", "y", "z"),
    ]
    assert column_names("Hand", 4, "Position", spatial=True)[0] == "dim0"
    assert column_names("elbow_angle", 1, "Position", spatial=True) == ("elbow_angle",)
    assert column_names("head", 1, "CompassDirection", spatial=True) == ("head",)


def test_names_of_several_series_begin_with_the_series():
    assert column_names("vel", 2, among_others=True) == ("vel_x", "vel_y")
    assert column_names("FCR", 1, "emg", among_others=True) == ("FCR",)
    assert column_names("emg", 2, own=("FCR", "FCU"), among_others=True) == ("emg_FCR", "emg_FCU")
    assert column_names("force", 1, own=("grip",)) == ("grip",)


def test_names_that_cannot_be_those_of_columns_are_none():
    assert tidy([" FCR ", "F\nCU"], 2) == ("FCR", "F CU")
    for names in (["a"], ["a", "a"], ["a", ""], ["a", "b", "c"], []):
        assert tidy(names, 2) == ()
    assert [len(n) for n in tidy(["a" * 999], 1)] == [60]


def recipe_of(path, **covariates) -> Recipe:
    return Recipe.model_validate({"dataset": "t", "covariates": {"path": path, **covariates}})


@pytest.fixture
def series(write_nwb, tmp_path):
    """Write a recording whose behaviour has a series (name, dims, kind), and change its group."""

    def write(name: str, dims: int, kind="TimeSeries", change=lambda group: None):
        path = write_nwb(tmp_path / "a.nwb", [[0.5, 3.5]])
        with h5py.File(path, "a") as f:
            group = f.create_group(f"processing/behavior/{name}")
            group.attrs["neurodata_type"] = kind
            group["data"] = np.random.default_rng(0).normal(size=(SAMPLES, dims))
            group["starting_time"] = 0.0
            group["starting_time"].attrs["rate"] = 100.0
            change(group)
        return path

    return write


def dataset(key, value):
    return lambda group: group.create_dataset(key, data=value)


MUSCLES = ["FCR", "FCU", "ECR", "BIC"]
BYTES = np.array(MUSCLES, "S4")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dataset("labels", MUSCLES), MUSCLES),
        (dataset("columns", BYTES), MUSCLES),
        (dataset("labels", "FCR, FCU, ECR,BIC"), MUSCLES),
        (lambda g: g.attrs.__setitem__("column_names", MUSCLES), MUSCLES),
        (lambda g: g["data"].attrs.__setitem__("dimension_names", BYTES), MUSCLES),
        (lambda g: g["data"].attrs.__setitem__("names", "FCR,FCU,ECR,BIC"), MUSCLES),
        (lambda g: g.attrs.__setitem__("description", "FCR, FCU, ECR, BIC"), None),
        (lambda g: g.attrs.__setitem__("comments", MUSCLES), None),
        (lambda g: g.attrs.__setitem__("labels", MUSCLES[:3]), None),
        (lambda g: g.attrs.__setitem__("labels", np.arange(4)), None),
        (dataset("labels", np.arange(4)), None),
        (lambda g: g.create_dataset("labels", (4,), h5py.ref_dtype), None),
        (lambda g: g.create_group("labels"), None),
        (dataset("labels", ["trial"] * SAMPLES), None),
    ],
)
def test_names_are_found_beside_the_data_of_a_series(series, change, expected):
    path = series("emg", 4, change=change)
    found = read_nwb(path, recipe_of("processing/behavior/emg")).covariate_names
    assert found == tuple(expected or ("dim0", "dim1", "dim2", "dim3"))


def test_a_recipe_names_columns_before_the_file_does(series):
    path = series("emg", 4, change=dataset("labels", MUSCLES))
    said = recipe_of("processing/behavior/emg", columns=[3, 0])
    assert read_nwb(path, said).covariate_names == ("BIC", "FCR")
    said = recipe_of("processing/behavior/emg", columns=[3, 0], names=["a", "b"])
    assert read_nwb(path, said).covariate_names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "dims", "kind", "expected"),
    [
        ("Hand", 2, "SpatialSeries", ("x", "y")),
        ("Hand", 2, "TimeSeries", ("dim0", "dim1")),
        ("hand_vel", 2, "TimeSeries", ("x", "y")),
        ("Position/hand", 3, "TimeSeries", ("x", "y", "z")),
        ("force", 1, "TimeSeries", ("force",)),
    ],
)
def test_a_series_without_names_has_those_of_its_kind(series, name, dims, kind, expected):
    path = series(name, dims, kind)
    found = read_nwb(path, recipe_of(f"processing/behavior/{name}"))
    assert found.covariate_names == expected


@pytest.mark.parametrize(
    ("path", "columns", "expected"),
    [
        ("handVel", [], "x y z"),
        ("handVel", [2, 0], "z x"),
        ("kin.force", [], "dim0 dim1"),
        ("kin.grip", [], "grip"),
        ("emg", [], "dim0 dim1 dim2 dim3"),
        ("emg", [3], "dim3"),
        (["handVel", "kin.grip", "kin.force"], [], "handVel_x handVel_y handVel_z grip force_dim0 "
         "force_dim1"),
    ],
)  # fmt: skip
def test_fields_of_matlab_files_name_their_columns(tmp_path, path, columns, expected):
    rng = np.random.default_rng(0)
    kin = {"force": rng.normal(size=(SAMPLES, 2)), "grip": rng.normal(size=(SAMPLES, 1))}
    fields = {"handVel": rng.normal(size=(SAMPLES, 3)), "emg": rng.normal(size=(SAMPLES, 4))}
    file = write_mat(tmp_path / "a_1.mat", {"spikes": cell([[0.5]]), "kin": kin, **fields})
    told = {"dataset": "t", "reader": "mat", "mat": {"rate_hz": 100}}
    recipe = Recipe.model_validate({**told, "covariates": {"path": path, "columns": columns}})
    assert read_recording(file, recipe).covariate_names == tuple(expected.split())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("vel", "x y"),
        ("emg", "dim0 dim1 dim2"),
        (["pos", "vel"], "pos_x pos_y vel_x vel_y"),
        ("", ""),
    ],
)
def test_fields_of_trials_name_their_columns(tmp_path, path, expected):
    trial = {"bin_size": 0.02, "M1_spikes": np.ones((50, 3)), "vel": np.ones((50, 2))}
    trial |= {"pos": np.ones((50, 2)), "emg": np.ones((50, 3))}
    file = write_mat(tmp_path / "a_1.mat", {"trial_data": struct_array([trial, trial])})
    told = {"dataset": "t", "reader": "pyaldata", "covariates": {"path": path}}
    recording = read_recording(file, Recipe.model_validate(told))
    assert recording.covariate_names == tuple(expected.split())

"""MATLAB files are read alike in every version; what cannot be trusted is refused by name."""

import struct
from pathlib import Path

import numpy as np
import pytest
import recordings
import scipy.io
import scipy.sparse
from mat_files import SECONDS, TRAINS, cell, fields, struct_array, v5_array, write_mat

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import bin_covariates, count_spikes
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.matlab.mat_file import open_mat
from ndt3_dist.readers.matlab.mat_options import MatRecipe
from ndt3_dist.readers.matlab.read_mat import read_mat
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.options import CovariatesRecipe

VERSIONS = ("6", "7", "7.3")


def recipe(mat: dict | None = None, covariates: dict | None = None, **changes) -> Recipe:
    return Recipe(
        dataset="t",
        reader="mat",
        mat=MatRecipe(**(mat or {})),
        covariates=CovariatesRecipe(**(covariates or {})),
        **changes,
    )


TIMES = recipe({"times": "t"}, {"path": "vel"})


def refusal(path: Path, how: Recipe = TIMES) -> str:
    return recordings.refusal(path, how)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_a_file_holds_the_same_values_in_the_order_of_matlab(version, tmp_path):
    value = {
        "x": np.arange(6.0).reshape(2, 3),
        "whole": np.arange(6, dtype=np.uint8).reshape(3, 2),
        "name": "Jango",
        "units": cell([np.arange(k + 1.0) for k in range(6)], (3, 2)),
        "s": {"a": {"label": "deep"}, "none": np.zeros((0, 0))},
        "trial": struct_array(
            [{"v": np.ones((4, 2)), "r": "L"}, {"v": np.zeros((3, 2)), "r": "R"}]
        ),
    }
    path = write_mat(tmp_path / "a.mat", value, version)
    with open_mat(path) as mat:
        np.testing.assert_array_equal(mat["x"], value["x"])
        np.testing.assert_array_equal(mat["whole"], value["whole"])
        assert mat["whole"].dtype == np.uint8
        assert mat["name"] == "Jango"
        assert mat["units"].shape == (3, 2)
        assert [u.size for u in mat["units"].flat] == [1, 2, 3, 4, 5, 6]
        assert mat["s.a.label"] == mat["s"]["a"]["label"] == "deep"
        assert mat["s.none"].size == 0
        assert [v.shape for v in mat["trial.v"].flat] == [(4, 2), (3, 2)]
        assert [t["r"] for t in mat["trial"].flat] == ["L", "R"]
        assert mat.get("s.other") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_times_and_covariates_are_read_on_one_clock(version, tmp_path):
    recording = read_mat(write_mat(tmp_path / "Jango_2015-07-30.mat", fields(), version), TIMES)
    assert [t.tolist() for t in recording.spike_times] == [t.tolist() for t in TRAINS]
    assert (recording.subject, recording.session) == ("Jango", "2015-07-30")
    assert [(a.name, a.channels) for a in recording.arrays] == [("units", 3)]
    assert recording.covariate_names == ("x", "y")
    assert (recording.start_s, recording.stop_s) == (0.0, pytest.approx(SECONDS))
    np.testing.assert_array_equal(recording.covariates, fields()["vel"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("at_bin", [0, 7, 99])
def test_a_spike_and_a_move_at_one_moment_lie_in_one_bin(version, at_bin, tmp_path):
    """Times in ms from 12.5 s on; 5 ms samples; one impulse in both at a bin's middle."""
    start, moment = 12.5, at_bin * 0.02 + 0.01
    t = np.arange(400) * 0.005
    move = np.zeros((400, 1))
    move[round(moment / 0.005)] = 4.0
    spikes = cell([np.array([(start + moment) * 1000]), np.zeros(0)])
    how = recipe({"times": "t", "times_in": "ms", "spikes_in": "ms"}, {"path": "vel"})
    values = {"spikes": spikes, "t": (start + t) * 1000, "vel": move}
    recording = read_mat(write_mat(tmp_path / "a.mat", values, version), how)
    binned = bin_covariates(
        recording.covariate_times, recording.covariates, recording.start_s, 0.02, 100, 0.1
    )
    counts = count_spikes(recording, 0.02, 100)
    assert np.flatnonzero(counts[:, 0]).tolist() == [at_bin]
    assert np.flatnonzero(binned[:, 0]).tolist() == [at_bin]
    assert binned[at_bin, 0] == 1.0  # one of its four samples


def test_times_that_were_rounded_stay_in_their_bins_and_uneven_ones_are_kept(tmp_path):
    exact = 12.591 + np.arange(400) * 0.0125
    for times, even in ((np.round(exact, 3), True), (exact + 1e-3 * np.sin(exact), False)):
        path = write_mat(tmp_path / "a.mat", fields(t=times, spikes=cell([exact[:9]])))
        found = read_mat(path, TIMES).covariate_times
        np.testing.assert_allclose(found, exact if even else times, atol=1e-9)


@pytest.mark.parametrize(("along", "turn"), [("rows", False), ("columns", True)])
def test_counts_begin_where_the_file_says_and_are_summed_to_bins(along, turn, tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (400, 3)).astype(np.uint8)
    t = 3.0 + np.arange(400) / 100
    values = fields(spikes=counts.T if turn else counts, t=t)
    mat = {"holds": "counts", "bin_ms": 10, "bins_along": along, "bin_times": "t", "times": "t"}
    recording = read_mat(write_mat(tmp_path / "a.mat", values), recipe(mat, {"path": "vel"}))
    assert recording.start_s == pytest.approx(3.0)
    assert recording.stop_s == pytest.approx(7.0)
    np.testing.assert_array_equal(
        count_spikes(recording, 0.02, 200), counts.reshape(200, 2, 3).sum(1)
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("high", "factor"), [(300.0, 1), (200.0, 2)])
def test_counts_above_255_are_refused_and_never_wrapped(version, high, factor, tmp_path):
    counts = np.ones((400, 3))
    counts[100:102, 1] = high
    path = write_mat(tmp_path / "a.mat", {"spikes": counts}, version)
    recording = read_mat(path, recipe({"holds": "counts", "bin_ms": 10}))
    with pytest.raises(BadInput, match=f"channel 1 has {high * factor:.0f} spikes"):
        count_spikes(recording, 0.01 * factor, 400 // factor)


def test_positions_become_velocity_that_keeps_within_its_bin(tmp_path):
    """The mean velocity of a bin is how far the hand went in it; never across a gap."""
    t = np.arange(400) / 100
    t[200:] += 1.0  # a gap
    position = np.column_stack([t**2, -t])
    how = recipe({"times": "t", "scale": 0.01, "unit": "m/s"}, {"path": "pos", "derivative": True})
    values = {"spikes": cell(TRAINS), "t": t, "pos": position}
    recording = read_mat(write_mat(tmp_path / "a.mat", values), how)
    x = bin_covariates(recording.covariate_times, recording.covariates, 0.0, 0.02, 250, 0.1)
    edges = np.arange(100) * 0.02
    np.testing.assert_allclose(
        x[:99, 0], 0.01 * ((edges + 0.02) ** 2 - edges**2)[:99] / 0.02, rtol=1e-5
    )
    assert np.isnan(recording.covariates[199]).all()
    assert np.isnan(x[101:149]).all()
    assert recording.stop_s == pytest.approx(recording.covariate_times[-1] + 0.01)


def test_samples_stamped_at_their_end_are_moved_back_by_one_period(tmp_path):
    path = write_mat(tmp_path / "a.mat", fields())
    how = recipe({"rate_hz": 100, "start_s": 1}, {"path": "vel", "stamped": "end"})
    assert read_mat(path, how).covariate_times[0] == pytest.approx(0.99)


def test_columns_names_arrays_subject_and_session_come_from_the_recipe(tmp_path):
    values = fields(info={"monkey": "Chewie", "day": 7.0})
    mat = {"times": "t", "arrays": {"PMd": 1, "M1": 2}, "unit": "cm/s"}
    mat |= {"subject": "info.monkey", "session": "info.day"}
    covariates = {"path": ["vel", "vel"], "columns": [3], "names": ["up"]}
    recording = read_mat(write_mat(tmp_path / "a.mat", values), recipe(mat, covariates))
    assert (recording.subject, recording.session) == ("Chewie", "7")
    assert [(a.name, a.channels) for a in recording.arrays] == [("PMd", 1), ("M1", 2)]
    np.testing.assert_array_equal(recording.covariates[:, 0], values["vel"][:, 1])
    assert (recording.covariate_names, recording.covariate_unit) == (("up",), "cm/s")


@pytest.mark.parametrize("version", VERSIONS)
def test_units_of_a_struct_array_are_channels(version, tmp_path):
    units = struct_array([{"ts": t, "chan": float(i)} for i, t in enumerate(TRAINS)])
    path = write_mat(tmp_path / "a.mat", fields(data={"units": units}), version)
    recording = read_mat(path, recipe({"spikes": "data.units.ts"}))
    assert [t.tolist() for t in recording.spike_times] == [t.tolist() for t in TRAINS]
    assert (recording.start_s, recording.stop_s) == (0.0, 3.0)


def test_units_in_the_columns_of_a_channel_are_summed(tmp_path):
    units = cell([*TRAINS, np.array([2.0]), TRAINS[1], np.array([0.125])], (2, 3))
    recording = read_mat(write_mat(tmp_path / "a.mat", {"spikes": units}), recipe())
    assert [t.tolist() for t in recording.spike_times] == [[0.25, 0.5, 1.0, 1.25, 3.0], [0.125, 2]]


def test_stevenson_2011_gives_the_counts_and_velocity_of_its_nwb_file():
    nwb_path, mat_path = (
        recordings.genuine("m1_stevenson_2011.nwb"),
        recordings.genuine("m1_stevenson_2011.mat"),
    )
    along = {"holds": "counts", "bin_ms": 50, "bins_along": "columns", "bin_times": "time"}
    how = recipe(
        {**along, "times": "time", "samples_along": "columns", "unit": "m/s"},
        {"path": "handVel", "columns": [0, 1]},
        bin_size_ms=50,
    )
    velocity = "processing/behavior/Velocity/cursor_vel"
    nwb = read_nwb(nwb_path, Recipe(dataset="t", covariates=CovariatesRecipe(path=velocity)))
    mat, binned = read_mat(mat_path, how), []
    for recording in (nwb, mat):
        hand = bin_covariates(
            recording.covariate_times, recording.covariates, recording.start_s, 0.05, 15536, 0.1
        )
        binned.append((count_spikes(recording, 0.05, 15536), hand))
    assert binned[1][0].shape == (15536, 171)
    np.testing.assert_array_equal(binned[0][0], binned[1][0])
    np.testing.assert_array_equal(binned[0][1], binned[1][1])
    assert np.isfinite(binned[1][1]).all()


@pytest.mark.parametrize("order", "<>")
def test_v5_files_of_either_byte_order_are_read(order, tmp_path):
    path = tmp_path / "a.mat"
    header = b"MATLAB 5.0".ljust(124) + struct.pack(order + "H", 0x0100)
    header += b"IM" if order == "<" else b"MI"
    doubles = np.arange(6).astype(order + "f8").tobytes()
    path.write_bytes(header + v5_array(order, 6, (2, 3), 9, doubles))
    with open_mat(path) as mat:
        np.testing.assert_array_equal(mat["x"], [[0, 2, 4], [1, 3, 5]])
    name = "Ji\u017eo".encode("utf-16-le" if order == "<" else "utf-16-be")
    for stored in (4, 17):
        path.write_bytes(header + v5_array(order, 4, (1, 4), stored, name))
        with open_mat(path) as mat:
            assert mat["x"] == "Ji\u017eo"


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_variables_of_a_v5_file_are_listed_in_its_order(version, tmp_path):
    with open_mat(write_mat(tmp_path / "a.mat", fields(), version)) as mat:
        assert list(mat.at) == ["spikes", "t", "vel"]


def test_stevenson_2011_is_parsed_as_scipy_parses_it():
    path = recordings.genuine("m1_stevenson_2011.mat")
    with open_mat(path) as mat:
        for name, values in scipy.io.loadmat(str(path)).items():
            if not name.startswith("__"):
                np.testing.assert_array_equal(mat[name], values)

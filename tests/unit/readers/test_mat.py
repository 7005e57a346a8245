"""MATLAB files are read alike in every version; what cannot be trusted is refused by name."""

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import recordings
import scipy.io
import scipy.sparse
from mat_files import cell, put, struct_array, write_mat

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import bin_covariates, count_spikes
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers import hdf5, mat_v73
from ndt3_dist.readers.mat import read_mat
from ndt3_dist.readers.mat_file import open_mat
from ndt3_dist.readers.mat_options import MatRecipe
from ndt3_dist.readers.nwb import read_nwb
from ndt3_dist.readers.options import CovariatesRecipe, SpikesRecipe

VERSIONS = ("6", "7", "7.3")
TRAINS = [np.array([0.5, 1.25, 3.0]), np.zeros(0), np.array([0.25, 1.0])]
SECONDS = 4.0


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


def fields(**changes) -> dict:
    """Three channels, the second silent, and a 100 Hz velocity."""
    t = np.arange(round(SECONDS * 100)) / 100
    vel = np.column_stack([np.sin(t), np.cos(t)])
    return {"spikes": cell(TRAINS), "t": t, "vel": vel, **changes}


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


BAD = {
    "missing": ({"vel": None}, "has no field vel: the file has spikes, t"),
    "cell_of_text": ({"spikes": cell(["a", "b"])}, "spikes{1,1} is the string 'a'"),
    "nested_cell": ({"spikes": cell([cell([1.0, 2.0])])}, "spikes{1,1} is a cell"),
    "no_cell": ({"spikes": np.ones((4, 3))}, "spikes is an array of float64 of shape (4, 3)"),
    "struct": ({"spikes": {"a": 1.0}}, "spikes is a struct"),
    "nan_spike": (
        {"spikes": cell([TRAINS[0], np.array([1.0, np.nan])])},
        "spikes{2,1} has 1 spike",
    ),
    "unsorted": ({"spikes": cell([np.array([2.0, 1.0])])}, "spikes{1,1} has unsorted spike times"),
    "matrix": ({"spikes": cell([np.ones((3, 2))])}, "spikes{1,1} has shape (3, 2)"),
    "silent": ({"spikes": cell([np.zeros(0)] * 3)}, "spikes has zero spikes"),
    "ms": ({"spikes": cell([np.arange(200) * 20.0])}, "channel 0 has"),
    "nan_clock": ({"t": np.r_[np.arange(399) / 100, np.nan]}, "t: 400 times are not strictly"),
    "back_clock": ({"t": np.r_[np.arange(399) / 100, 0]}, "t: 400 times are not strictly"),
    "short_clock": ({"t": np.arange(300) / 100}, "vel: 400 samples, 300 times"),
    "turned": ({"vel": np.ones((2, 400))}, "vel has 2 samples of 400 dims"),
    "text": ({"vel": "none"}, "vel is the string 'none'"),
}


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize("name", BAD)
def test_a_field_that_cannot_be_is_refused_by_name(name, version, tmp_path):
    changes, expected = BAD[name]
    values = {k: v for k, v in fields(**changes).items() if v is not None}
    assert expected in refusal(write_mat(tmp_path / "a.mat", values, version))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (np.full((400, 3), -1.0), "negative"),
        (np.full((400, 3), 0.5), "no whole numbers"),
        (np.full((400, 3), np.nan), "NaN"),
        (np.full((400, 3), 1e300), "no whole numbers"),
        (np.ones((3, 400)), "other way round"),
        (np.zeros((0, 0)), "is empty"),
        (cell(TRAINS), "spikes is a cell"),
    ],
)
def test_counts_that_cannot_be_are_refused_by_name(counts, expected, tmp_path):
    path = write_mat(tmp_path / "a.mat", {"spikes": counts})
    message = refusal(path, recipe({"holds": "counts", "bin_ms": 10}))
    assert expected in message
    assert "spikes" in message


@pytest.mark.parametrize(
    ("mat", "covariates", "expected"),
    [
        ({"times": "t", "arrays": {"M1": 96}}, {"path": "vel"}, "spikes has 3 channels"),
        ({"times": "t"}, {"path": "vel", "columns": [2]}, "vel: 2 dims; covariates.columns"),
        ({"times": "t"}, {"path": "vel", "names": ["x"]}, "1 names for 2 dimensions"),
        ({"times": "t", "subject": "vel"}, {"path": "vel"}, "vel is an array"),
        ({"holds": "counts"}, {}, "counts in spikes need their bin size"),
        ({}, {"path": "vel"}, "either mat.times or mat.rate_hz"),
        ({"times": "t"}, {"path": "vel", "clock": "x"}, "does not use covariates.clock"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(mat, covariates, expected, tmp_path):
    path = write_mat(tmp_path / "a.mat", fields())
    if "clock" in covariates:
        with pytest.raises(BadInput, match=expected):
            read_mat(path, recipe(mat, covariates))
    else:
        assert expected in refusal(path, recipe(mat, covariates))


def test_keys_that_only_other_readers_use_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"does not use spikes\.channels"):
        read_mat(tmp_path / "a.mat", recipe(spikes=SpikesRecipe(channels="unit")))


def test_counts_whose_clock_has_a_gap_or_is_another_one_are_refused(tmp_path):
    t = np.arange(400) / 100
    mat = {"holds": "counts", "bin_ms": 10, "times": "t"}
    gap = fields(spikes=np.ones((400, 3)), bins=np.where(t > 2, t + 1, t))
    message = refusal(
        write_mat(tmp_path / "a.mat", gap), recipe(mat | {"bin_times": "bins"}, {"path": "vel"})
    )
    assert "bins: 400 times up to 1.000 s from a regular clock" in message
    late = refusal(tmp_path / "a.mat", recipe(mat | {"start_s": 99}, {"path": "vel"}))
    assert "400 of 400 covariate samples lie outside the counts" in late


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_cut_anywhere_is_one_clear_refusal(version, tmp_path):
    whole = write_mat(tmp_path / "whole.mat", fields(), version).read_bytes()
    path = tmp_path / "a.mat"
    for size in [0, 1, 127, 128, 130, 140, *range(200, len(whole) - 1, len(whole) // 40)]:
        path.write_bytes(whole[:size])
        refusal(path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_flipped_bytes_is_read_or_refused_and_nothing_else(version, seed, tmp_path):
    rng = np.random.default_rng(seed)
    whole = write_mat(tmp_path / "whole.mat", fields(), version).read_bytes()
    path = tmp_path / "a.mat"
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(BadInput):
            read_mat(path, TIMES)


def test_a_compressed_variable_is_compared_with_its_checksum(tmp_path):
    """A flipped byte may unpack to other numbers, and to as many."""
    times = np.arange(400) / 100
    inner = v5_array("<", 6, (400, 1), 9, times.tobytes())
    packed = bytearray(zlib.compress(inner, 0))  # stored as it is, between two headers
    path = write_mat(tmp_path / "a.mat", {})
    head = path.read_bytes()[:128]

    def put_it(*more: bytes) -> None:
        data = bytes(packed) + b"".join(more)
        path.write_bytes(head + struct.pack("<II", 15, len(data)) + data)

    put_it()
    with open_mat(path) as mat:
        np.testing.assert_array_equal(mat["x"][:, 0], times)
    packed[len(packed) // 2] ^= 1
    put_it()
    said = refusal(path, recipe({"spikes": "x"}))
    assert "x does not unpack (Error -3 while decompressing data: incorrect data check)" in said
    packed = zlib.compress(inner + bytes(8))
    put_it()
    assert "x does not end where it says" in refusal(path, recipe({"spikes": "x"}))
    packed = zlib.compress(inner)[:-2]
    put_it()
    assert "x does not end where it says" in refusal(path, recipe({"spikes": "x"}))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    assert "no such file" in refusal(path)
    path.write_text("spikes, velocity\n" * 100)
    assert "not a MATLAB file" in refusal(path)


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_a_file_that_points_into_another_file_is_refused(kind, tmp_path):
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    with h5py.File(path, "a") as f:
        if kind == "link":
            f["elsewhere"] = h5py.ExternalLink("secret.h5", "/x")
        elif kind == "storage":
            f.create_dataset("elsewhere", (4,), "f8", external="secret.bin")
        else:
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource("secret.h5", "x", (4,))
            f.create_virtual_dataset("elsewhere", layout)
    message = refusal(path)
    assert "elsewhere" in message
    assert "refused" in message


def test_a_link_to_another_file_is_refused_where_only_a_reference_leads_to_it(tmp_path):
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    write_mat(tmp_path / "secret.mat", fields(), "7.3")
    with h5py.File(path, "a") as f:
        hidden = f.create_group("hidden")
        hidden["elsewhere"] = h5py.ExternalLink("secret.mat", "/vel")
        hidden["itself"] = hidden  # keeps it in the file when its name goes
        del f["spikes"], f["hidden"]
        f.create_dataset("spikes", (1, 1), h5py.ref_dtype)[...] = hidden.ref
    assert "spikes{1,1}.elsewhere lies in another file; refused" in refusal(path)


def test_references_that_lead_back_to_themselves_are_refused(tmp_path):
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    with h5py.File(path, "a") as f:
        del f["spikes"]
        f.create_dataset("spikes", (1, 2), h5py.ref_dtype)
        f["spikes"][...] = f["spikes"].ref
    assert "deep or leads back to itself" in refusal(path)


def test_cells_that_multiply_are_refused(tmp_path, monkeypatch):
    """Eight cells that each show the next level eight times: a small file, 8 ** 7 values."""
    monkeypatch.setattr(mat_v73, "MOST_VALUES", 1000)
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    with h5py.File(path, "a") as f:
        del f["spikes"]
        put(f, f, "level0", np.ones(3))
        for level in range(1, 8):
            made = f.create_dataset(f"level{level}", (1, 8), h5py.ref_dtype)
            made[...] = f[f"level{level - 1}"].ref
        f.move("level7", "spikes")
    assert "over 1000 cells" in refusal(path)


def test_an_hdf5_array_that_the_file_cannot_hold_is_refused_before_it_is_read(tmp_path):
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    with h5py.File(path, "a") as f:
        del f["vel"]
        f.create_dataset("vel", (2, 1 << 40), "f8", chunks=(1, 1 << 16), compression="gzip")
    assert "vel declares 17592.2 GB" in refusal(path)


@pytest.mark.parametrize("lie", ["declared", "true"])
def test_a_compressed_variable_that_unpacks_out_of_proportion_is_refused(
    lie, tmp_path, monkeypatch
):
    """One that declares 4 GB; and one of 8 MB zeros, where 1 MB is the limit."""
    path = write_mat(tmp_path / "a.mat", {})
    inner = struct.pack("<IIIIIIiiIIII", 6, 8, 6, 0, 5, 8, 1, 1 << 20, 1, 1, 9, 1 << 23)
    size = 0xFFFFFFF0 if lie == "declared" else len(inner) + (1 << 23)
    inner = struct.pack("<II", 14, size) + inner + bytes(1 << 23)
    if lie == "true":
        monkeypatch.setattr(hdf5, "FREE_BYTES", 1 << 20)
        monkeypatch.setattr(hdf5, "MOST_RATIO", 100)
    packed = zlib.compress(inner)
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 15, len(packed)) + packed)
    assert "variable 1 declares" in refusal(path)


@pytest.mark.parametrize("kind", [1, 2, 6])
def test_an_array_that_declares_more_elements_than_bytes_is_refused(kind, tmp_path):
    path = write_mat(tmp_path / "a.mat", {})
    dims = struct.pack("<IIii", 5, 8, 1 << 30, 1 << 30)
    inner = struct.pack("<IIII", 6, 8, kind, 0) + dims + struct.pack("<II", 1 | 1 << 16, ord("x"))
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 14, len(inner)) + inner)
    assert "declares (1073741824, 1073741824) elements" in refusal(path, recipe({"spikes": "x"}))


def test_cells_nested_without_end_are_refused(tmp_path):
    value = np.ones(3)
    for _ in range(40):
        value = cell([value])
    for version in VERSIONS:
        path = write_mat(tmp_path / "a.mat", {"spikes": value}, version)
        assert "deep" in refusal(path, recipe())


def test_sparse_arrays_are_refused_where_they_are_asked_for(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {**fields(), "vel": scipy.sparse.csc_matrix(np.eye(400, 2))})
    assert "vel is of MATLAB's kind sparse array" in refusal(path)
    read_mat(path, recipe())


def v5_array(order: str, kind: int, shape: tuple[int, int], stored: int, data: bytes, size=None):
    """The array x as bytes: class, shape, stored type and data, which may lie about its size."""
    head = struct.pack(order + "IIII", 6, 8, kind, 0) + struct.pack(order + "IIii", 5, 8, *shape)
    head += struct.pack(order + "II", 1, 1) + b"x".ljust(8, b"\0")
    size = len(data) if size is None else size
    inner = head + struct.pack(order + "II", stored, size) + data.ljust(-(-len(data) // 8) * 8)
    return struct.pack(order + "II", 14, len(inner)) + inner


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


@pytest.mark.parametrize(
    ("size", "expected"), [(1 << 31, "larger than what holds it"), (40, "x has 5 elements")]
)
def test_an_element_that_lies_about_its_size_is_refused(size, expected, tmp_path):
    path = write_mat(tmp_path / "a.mat", {})
    array = v5_array("<", 6, (2, 3), 9, bytes(48), size)
    path.write_bytes(path.read_bytes()[:128] + array + array.replace(b"x", b"y"))
    assert expected in refusal(path, recipe({"spikes": "x"}))


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

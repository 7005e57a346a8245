"""MATLAB files that were damaged, or made to do harm, are one clear refusal within their bounds."""

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
from mat_files import cell, fields, put, v5_array, write_mat

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers import hdf5
from ndt3_dist.readers.matlab import mat_v73
from ndt3_dist.readers.matlab.mat_file import open_mat
from ndt3_dist.readers.matlab.read_mat import read_mat

VERSIONS = ("6", "7", "7.3")


def recipe(mat: dict | None = None, covariates: dict | None = None) -> Recipe:
    told = {"dataset": "t", "reader": "mat", "mat": mat or {}, "covariates": covariates or {}}
    return Recipe.model_validate(told)


TIMES = recipe({"times": "t"}, {"path": "vel"})


def refusal(path: Path, how: Recipe = TIMES) -> str:
    return recordings.refusal(path, how)


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


def test_what_stands_for_a_file_is_called_so(tmp_path):
    path = tmp_path / "a.mat"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert "not a MATLAB file (a Git LFS pointer, not the file itself; run git" in refusal(path)
    path.unlink()
    path.symlink_to(".git/annex/objects/x1/y2/SHA256E-s9--ab.mat")
    assert "its content is not here; run git annex get" in refusal(path)


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


@pytest.mark.parametrize(
    ("size", "expected"), [(1 << 31, "larger than what holds it"), (40, "x has 5 elements")]
)
def test_an_element_that_lies_about_its_size_is_refused(size, expected, tmp_path):
    path = write_mat(tmp_path / "a.mat", {})
    array = v5_array("<", 6, (2, 3), 9, bytes(48), size)
    path.write_bytes(path.read_bytes()[:128] + array + array.replace(b"x", b"y"))
    assert expected in refusal(path, recipe({"spikes": "x"}))


def test_sparse_arrays_are_refused_where_they_are_asked_for(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {**fields(), "vel": scipy.sparse.csc_matrix(np.eye(400, 2))})
    assert "vel is of MATLAB's kind sparse array" in refusal(path)
    read_mat(path, recipe())

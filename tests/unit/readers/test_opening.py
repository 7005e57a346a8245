"""Opening HDF5 files: filters that are not part of HDF5, and files that another process holds."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from bad_nwb import TIMES, VELOCITY
from forks import forks
from mat_files import fields, write_mat
from recordings import refusal

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.read import read_recording

NWB = {"dataset": "t", "covariates": {"path": VELOCITY}}
MAT = {"dataset": "t", "reader": "mat", "mat": {"times": "t"}, "covariates": {"path": "vel"}}
PACKED = {
    "32001 blosc": ("Blosc", {"cname": "zstd"}),
    "32004 lz4": ("LZ4", {}),
    "32008 bitshuffle": ("Bitshuffle", {}),
    "32015 zstd": ("Zstd", {}),
}


def pack(path: Path, name: str, how: str) -> None:
    import hdf5plugin  # here alone: it stays in a process that has imported it

    kind, options = PACKED[how]
    with h5py.File(path, "a") as f:
        attributes, values = dict(f[name].attrs), f[name][()]
        del f[name]
        packed = getattr(hdf5plugin, kind)(**options)
        f.create_dataset(name, data=values, chunks=True, **packed)
        f[name].attrs.update(attributes)


def read_and_say(path: str, recipe: dict, to: str, hides_plugin: bool) -> None:
    """In a process of its own, since filters stay where they were once registered."""
    if hides_plugin:
        sys.modules["hdf5plugin"] = None  # pyright: ignore
    try:
        read_recording(path, Recipe.model_validate(recipe))
        said = "read"
    except BadInput as e:
        said = str(e)
    Path(to).write_text(said)


def said_anew(path: Path, recipe: dict, hides_plugin: bool) -> str:
    """What a new process says of a recording."""
    to = path.with_suffix(".said")
    args = (str(path), recipe, str(to), hides_plugin)
    process = forks().Process(target=read_and_say, args=args)
    process.start()
    process.join(60)
    return to.read_text()


@pytest.mark.parametrize("name", PACKED)
def test_arrays_of_other_filters_are_read_with_hdf5plugin(write_session, tmp_path, name):
    path = write_session(tmp_path / "a.nwb", seed=0)
    expected = read_recording(path, Recipe.model_validate(NWB))
    for array in (TIMES, f"{VELOCITY}/data"):
        pack(path, array, name)
    found = read_recording(path, Recipe.model_validate(NWB))
    np.testing.assert_array_equal(found.covariates, expected.covariates)
    for ours, theirs in zip(found.spike_times, expected.spike_times, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_hdf5plugin_the_array_and_its_filter_are_named_where_it_is_read(
    write_session, tmp_path
):
    path = write_session(tmp_path / "a.nwb", seed=0)
    pack(path, "units/electrodes", "32015 zstd")
    alone = {**NWB, "spikes": {"channels": "unit"}}
    assert said_anew(path, alone, True) == "read"
    pack(path, TIMES, "32001 blosc")
    assert said_anew(path, alone, True) == (
        f"{path}: {TIMES} is compressed by the HDF5 filter 32001 blosc; "
        "`pip install hdf5plugin` or ndt3_dist[filters] reads it"
    )
    assert said_anew(path, alone, False) == "read"
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    expected = read_recording(path, Recipe.model_validate(MAT)).covariates
    pack(path, "vel", "32004 lz4")
    assert "vel is compressed by the HDF5 filter 32004 lz4;" in said_anew(path, MAT, True)
    found = read_recording(path, Recipe.model_validate(MAT)).covariates
    np.testing.assert_array_equal(found, expected)


def unknown(f, name: str, value: float) -> None:
    """An array of a filter that is optional and not there: each chunk may be as it was."""
    kept, data = dict(f[name].attrs), f[name][()]
    del f[name]
    made = f.create_dataset(
        name, data.shape, "f8", chunks=True, compression=400, allow_unknown_filter=True
    )
    made.id.write_direct_chunk((0,) * data.ndim, data.tobytes(), filter_mask=int(value))
    made.attrs.update(kept)


def test_a_filter_that_nobody_has_is_named_unless_nothing_went_through_it(write_session, tmp_path):
    path = write_session(tmp_path / "a.nwb", seed=0)
    expected = read_recording(path, Recipe.model_validate(NWB)).spike_times
    for skipped in (True, False):
        with h5py.File(path, "a") as f:
            unknown(f, TIMES, skipped)
        if skipped:
            found = read_recording(path, Recipe.model_validate(NWB)).spike_times
            np.testing.assert_array_equal(found[3], expected[3])
    said = refusal(path, Recipe.model_validate(NWB))
    assert f"{TIMES} is compressed by the HDF5 filter 400 unnamed, which hdf5plugin" in said


@pytest.mark.parametrize("kind", ["nwb", "mat"])
def test_a_file_that_another_process_writes_is_called_locked(write_session, tmp_path, kind):
    path, recipe = tmp_path / f"a.{kind}", Recipe.model_validate(NWB if kind == "nwb" else MAT)
    if kind == "nwb":
        write_session(path, seed=0)
    else:
        write_mat(path, fields(), "7.3")
    program = "import h5py, sys\nf = h5py.File(sys.argv[1], 'a')\nprint(flush=True)\ninput()"
    writer = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout
        writer.stdout.readline()
        said = refusal(path, recipe)
    finally:
        writer.communicate(b"\n")
    assert said.startswith(f"{path}: locked by another process, which may still write it; close it")
    assert "HDF5_USE_FILE_LOCKING=FALSE" in said
    read_recording(path, recipe)

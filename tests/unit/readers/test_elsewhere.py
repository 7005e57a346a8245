"""What lies in another file: refused where it is read, harmless where it is not, never opened."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from bad_nwb import ELECTRODES, TIMES, VELOCITY, virtual
from mat_files import fields, write_mat
from recordings import refusal

from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.matlab.read_mat import read_mat
from ndt3_dist.readers.nwb.read_nwb import read_nwb

NWB = Recipe.model_validate({"dataset": "t", "covariates": {"path": VELOCITY}})
MAT = Recipe.model_validate(
    {"dataset": "t", "reader": "mat", "mat": {"times": "t"}, "covariates": {"path": "vel"}}
)


def link(f, name: str) -> None:
    f[name] = h5py.ExternalLink("secret.h5", "/x")


def stored(f, name: str) -> None:
    f.create_dataset(name, (480,), "f8", external="secret.bin")


def soft(f, name: str) -> None:
    link(f, "there")
    f[name] = h5py.SoftLink("/there")


def below_a_link(f, name: str) -> None:
    link(f, "there")
    f[name] = h5py.SoftLink("/there/data")


def shown(f, name: str) -> None:
    """An array that shows one of this file which lies in another one."""
    link(f, "there")
    show(f, name, "there")


def shown_twice(f, name: str) -> None:
    virtual(f, "first")
    show(f, name, "first")


def show(f, name: str, of: str) -> None:
    """An array that shows another one, or itself."""
    layout = h5py.VirtualLayout((480,), "f8")
    layout[:] = h5py.VirtualSource(".", of, (480,))
    f.create_virtual_dataset(name, layout)


WAYS = (link, stored, virtual, soft, below_a_link, shown, shown_twice)


@pytest.fixture(autouse=True)
def secrets(tmp_path):
    """Other files, which are not even opened: the time of last access stays (but for file systems
    that keep none)."""
    with h5py.File(tmp_path / "secret.h5", "w") as f:
        f["x"] = np.ones(480)
    np.ones(480).tofile(tmp_path / "secret.bin")
    paths = [tmp_path / "secret.h5", tmp_path / "secret.bin"]
    for path in paths:
        os.utime(path, (0, path.stat().st_mtime))
    yield
    assert [path.stat().st_atime for path in paths] == [0, 0]


@pytest.fixture
def nwb(tmp_path, write_session) -> Path:
    """A recording beside the file that things are in."""
    return write_session(tmp_path / "a.nwb", seed=0)


def replace(path: Path, name: str, way) -> None:
    with h5py.File(path, "a") as f:
        if name in f:
            del f[name]
        way(f, name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [TIMES, f"{VELOCITY}/data", f"{VELOCITY}/timestamps"])
def test_what_is_read_and_lies_elsewhere_is_refused(nwb, name, way):
    replace(nwb, name, way)
    said = refusal(nwb, NWB)
    assert any(words in said for words in ("another file", "first is shown by an array and shows"))
    assert said.count("refused") == 1
    assert any(path in said for path in (name, "there", "first"))


@pytest.mark.parametrize(
    "name",
    ["units", "processing", "processing/behavior", VELOCITY, ELECTRODES, "general/session_id"],
)
def test_a_group_on_the_way_that_lies_elsewhere_is_refused(nwb, name):
    replace(nwb, name, link)
    assert f"{name} is an external link to another file" in refusal(nwb, NWB)


def test_all_series_of_a_container_and_a_table_that_is_asked_for_are_read(nwb):
    replace(nwb, "processing/behavior/Velocity/more", link)
    replace(nwb, "intervals/trials", link)
    of = Recipe(dataset="t", covariates={"path": "processing/behavior/Velocity/*"})
    assert "Velocity/more is an external link" in refusal(nwb, of)
    of = Recipe(dataset="t", validity={"table": "trials", "outside": "cut"})
    assert "intervals/trials is an external link" in refusal(nwb, of)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_read_may_lie_anywhere(nwb, way):
    """As in a processed file that links to the raw one."""
    expected = read_nwb(nwb, NWB)
    for name in ("acquisition/raw", "processing/behavior/raw", "units/waveforms", "intervals/x"):
        replace(nwb, name, way)
        with h5py.File(nwb, "a") as f:
            for made in {"there", "first"} & set(f):
                del f[made]
    found = read_nwb(nwb, NWB)
    np.testing.assert_array_equal(found.covariates, expected.covariates)
    for ours, theirs in zip(found.spike_times, expected.spike_times, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    said = refusal(nwb, Recipe(dataset="t", covariates={"path": "processing/x"}))
    assert "no covariates at processing/x: processing has behavior" in said


def test_parts_of_arrays_of_the_same_file_are_read(nwb):
    expected = read_nwb(nwb, NWB)
    with h5py.File(nwb, "a") as f:
        f.move(TIMES, "kept")
        show(f, TIMES, "kept")
    for ours, theirs in zip(read_nwb(nwb, NWB).spike_times, expected.spike_times, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_array_that_shows_itself_is_refused(nwb):
    replace(nwb, TIMES, lambda f, name: show(f, name, name))
    assert f"{TIMES} is shown by an array and shows others itself" in refusal(nwb, NWB)


@pytest.mark.parametrize("way", WAYS)
def test_matlab_files_are_held_to_the_same(tmp_path, way):
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    expected = read_mat(path, MAT)
    replace(path, "elsewhere", way)
    np.testing.assert_array_equal(read_mat(path, MAT).covariates, expected.covariates)
    with h5py.File(path, "a") as f:
        for made in {"there", "first"} & set(f):
            del f[made]
    replace(path, "vel", way)
    said = refusal(path, MAT)
    assert any(words in said for words in ("another file", "first is shown by an array and shows"))
    assert said.count("refused") == 1


def test_a_link_is_refused_where_only_a_reference_leads_to_it(tmp_path):
    path = write_mat(tmp_path / "a.mat", fields(), "7.3")
    with h5py.File(path, "a") as f:
        hidden = f.create_group("hidden")
        link(hidden, "elsewhere")
        hidden["itself"] = hidden  # keeps it in the file when its name goes
        del f["spikes"], f["hidden"]
        f.create_dataset("spikes", (1, 1), h5py.ref_dtype)[...] = hidden.ref
    assert "spikes{1,1}/elsewhere is an external link to another file" in refusal(path, MAT)

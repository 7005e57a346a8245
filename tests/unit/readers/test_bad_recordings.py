"""Every kind of bad recording fails alone, with its file, the field and what is wrong with it."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep import job
from ndt3_dist.prep.recipe import Recipe, SplitRule
from ndt3_dist.readers.nwb import read_nwb
from ndt3_dist.readers.options import CovariatesRecipe
from ndt3_dist.shards.verify import verify_corpus

VELOCITY = "processing/behavior/Velocity/cursor_vel"
ELECTRODES = "general/extracellular_ephys/electrodes"
TIMES = "units/spike_times"


def replace(name: str, data, **attributes):
    """Puts something else in a dataset's place."""

    def change(f: h5py.File) -> None:
        kept = dict(f[name].attrs) | attributes
        del f[name]
        f[name] = data
        for key, value in kept.items():
            f[name].attrs[key] = value

    return change


def edit(name: str, where, value):
    def change(f: h5py.File) -> None:
        f[name][where] = value

    return change


def scale(factor: float, shift: float = 0.0):
    def change(f: h5py.File) -> None:
        f[TIMES][...] = f[TIMES][()] * factor + shift

    return change


def delete(*names: str):
    def change(f: h5py.File) -> None:
        for name in names:
            del f[name]

    return change


def attribute(name: str, key: str, value):
    def change(f: h5py.File) -> None:
        f[name].attrs[key] = value

    return change


def stamps(times):
    def change(f: h5py.File) -> None:
        del f[f"{VELOCITY}/starting_time"]
        f[f"{VELOCITY}/timestamps"] = times

    return change


def clock_with(at, value):
    times = np.arange(1200) / 100
    times[at] = value
    return stamps(times)


def burst(f: h5py.File) -> None:
    f[TIMES][:120] = np.linspace(1.001, 1.002, 120)
    del f["units/spike_times_index"]
    f["units/spike_times_index"] = np.array([480, 480, 480, 480])
    f[TIMES][:300] = np.sort(np.linspace(1.001, 1.009, 300))
    f[TIMES][300:] = np.linspace(1.01, 11, 180)


def put(name: str, make):
    def change(f: h5py.File) -> None:
        if name in f:
            del f[name]
        make(f, name)

    return change


def virtual(f: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((480,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (480,))
    f.create_virtual_dataset(name, layout)


HDF5_KINDS = {
    "nwb_1": (attribute("/", "nwb_version", "1.0.5"), "NWB 1.0.5"),
    "no_version": (lambda f: f.attrs.__delitem__("nwb_version"), "no nwb_version"),
    "no_units": (delete("units"), "no units with spike times"),
    "no_spike_times": (delete(TIMES), "no units with spike times"),
    "no_index": (delete("units/spike_times_index"), "no index for 4 units"),
    "references_as_names": (
        put(
            f"{ELECTRODES}/group_name",
            lambda f, n: f.create_dataset(n, (4,), h5py.ref_dtype),
        ),
        "electrodes/group_name holds references",
    ),
    "day_of_thousands_of_channels": (
        lambda f: (
            delete("processing/behavior/Velocity/cursor_vel/data")(f),
            f.create_dataset(
                f"{VELOCITY}/data", data=np.zeros((8_000_000, 1), "i1"), compression=9
            ),
            attribute(f"{VELOCITY}/starting_time", "rate", 100.0)(f),
        ),
        "at rate 100 last 80000 s",
    ),
    "no_ids": (delete("units/id"), "units has no ids"),
    "zero_units": (replace("units/id", np.zeros(0, int)), "no units with spike times"),
    "zero_spikes": (
        lambda f: (
            replace(TIMES, np.zeros(0))(f),
            replace("units/spike_times_index", np.zeros(4, np.uint8))(f),
        ),
        "zero spikes",
    ),
    "nan_spike": (edit(TIMES, 7, np.nan), "unit 0 has 1 spike times that are NaN"),
    "infinite_spike": (edit(TIMES, 119, np.inf), "unit 0 has 1 spike times that are NaN or inf"),
    "unsorted_spikes": (edit(TIMES, 10, 11.0), "unit 0 has unsorted spike times"),
    "spikes_in_ms": (scale(1000), "spikes outside the recording"),
    "spikes_of_another_clock": (scale(1, 1.6e9), "spikes outside the recording"),
    "text_as_times": (replace(TIMES, ["x"] * 480), "units/spike_times"),
    "complex_times": (replace(TIMES, np.zeros(480, complex)), "units/spike_times"),
    "references_as_times": (
        put(TIMES, lambda f, n: f.create_dataset(n, (480,), h5py.ref_dtype)),
        "units/spike_times",
    ),
    "times_in_two_dimensions": (replace(TIMES, np.zeros((240, 2))), "units/spike_times"),
    "one_number_as_times": (replace(TIMES, 1.0), "units/spike_times"),
    "index_turns_back": (edit("units/spike_times_index", 1, 5), "units/spike_times_index"),
    "index_ends_late": (edit("units/spike_times_index", 3, 255), "units/spike_times_index"),
    "index_is_short": (
        replace("units/spike_times_index", np.array([120, 240])),
        "units/spike_times_index",
    ),
    "index_is_negative": (
        replace("units/spike_times_index", np.array([-1, 120, 240, 480])),
        "units/spike_times_index",
    ),
    "burst": (burst, "spikes in the bin at"),
    "electrode_out_of_table": (edit("units/electrodes", 2, 99), "unit 2 names no electrode"),
    "negative_electrode": (edit("units/electrodes", 1, -1), "unit 1 names no electrode"),
    "no_electrodes_table": (delete(ELECTRODES), "no electrodes table"),
    "no_group_names": (delete(f"{ELECTRODES}/group_name"), "no electrodes table with group names"),
    "short_group_names": (
        replace(f"{ELECTRODES}/group_name", ["M1"]),
        "electrodes/group_name has shape (1,), the table 4 rows",
    ),
    "observed_nan": (
        lambda f: (
            attribute("units", "colnames", ["spike_times", "electrodes", "obs_intervals"])(f),
            f["units"].create_dataset("obs_intervals", data=np.full((4, 2), np.nan)),
        ),
        "obs_intervals that are empty, NaN or infinite",
    ),
    "no_covariates": (delete("processing/behavior/Velocity"), f"no covariates at {VELOCITY}"),
    "no_data": (delete(f"{VELOCITY}/data"), "cursor_vel is a TimeSeries without data"),
    "no_samples": (replace(f"{VELOCITY}/data", np.zeros((0, 2))), "has no samples"),
    "text_as_samples": (replace(f"{VELOCITY}/data", ["x"] * 1200), f"{VELOCITY}/data"),
    "one_sample": (replace(f"{VELOCITY}/data", 3.0), f"{VELOCITY}/data"),
    "conversion_is_text": (attribute(f"{VELOCITY}/data", "conversion", "cm"), "conversion"),
    "no_clock": (delete(f"{VELOCITY}/starting_time"), "neither timestamps nor a rate"),
    "rate_zero": (attribute(f"{VELOCITY}/starting_time", "rate", 0.0), "rate above 0 (found 0"),
    "rate_nan": (attribute(f"{VELOCITY}/starting_time", "rate", np.nan), "rate above 0 (found nan"),
    "rate_negative": (attribute(f"{VELOCITY}/starting_time", "rate", -100.0), "rate above 0"),
    "rate_is_period": (attribute(f"{VELOCITY}/starting_time", "rate", 0.01), "rate_is_period=true"),
    "start_nan": (edit(f"{VELOCITY}/starting_time", (), np.nan), "not strictly ascending"),
    "start_of_another_clock": (
        edit(f"{VELOCITY}/starting_time", (), 1.6e9),
        "spikes outside the recording",
    ),
    "times_missing": (stamps(np.arange(600) / 100), "600 times, 1200 samples"),
    "times_turn_back": (clock_with(700, 2.0), "timestamps are not strictly ascending"),
    "times_nan": (clock_with(700, np.nan), "timestamps are not strictly ascending"),
    "times_in_ms": (stamps(np.arange(1200) * 10.0), "its timestamps span 11990 s"),
    "times_are_text": (stamps(["now"] * 1200), f"{VELOCITY}/timestamps"),
    "too_short": (
        lambda f: (
            replace(f"{VELOCITY}/data", np.ones((50, 2)))(f),
            replace(TIMES, np.linspace(0, 0.4, 480))(f),
        ),
        "shorter than a window",
    ),
    "external_link": (
        put("scratch/x", lambda f, n: f.__setitem__(n, h5py.ExternalLink("other.h5", "/x"))),
        "scratch/x is an external link",
    ),
    "external_data": (
        put(TIMES, lambda f, n: f.create_dataset(n, (480,), "f8", external="other.bin")),
        "units/spike_times keeps its data in another file",
    ),
    "virtual_data": (put(TIMES, virtual), "units/spike_times keeps its data in another file"),
    "link_to_itself": (
        put(TIMES, lambda f, n: f.__setitem__(n, h5py.SoftLink(f"/{n}"))),
        "units/spike_times is a link that leads nowhere",
    ),
    "huge": (
        put(TIMES, lambda f, n: f.create_dataset(n, (1 << 40,), "f8", chunks=True)),
        "units/spike_times declares 8796.1 GB",
    ),
}
"""Name -> what is done to a good file, and what must be said of it."""


def bytes_kinds(good: bytes) -> dict[str, tuple[bytes, str]]:
    """The same for files that are no NWB files to begin with."""
    return {
        "empty": (b"", "not HDF5"),
        "text": (b"time,spikes\n" * 500, "not HDF5"),
        "archive": (b"PK\x03\x04" + bytes(5000), "not HDF5"),
        "half": (good[: len(good) // 2], "not a readable NWB file"),
        "head": (good[:96], "not a readable NWB file"),
        "zeroed": (good[:512] + bytes(len(good) - 512), "not a readable NWB file"),
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory, write_session) -> Path:
    return write_session(tmp_path_factory.mktemp("good") / "good.nwb", seed=0)


def recipe_of(folder: Path, **keys) -> Recipe:
    splits = [SplitRule(intervals={"train": (0, 1)})]
    covariates = CovariatesRecipe(path=VELOCITY)
    paths = {"source": str(folder), "out": str(folder.parent / "corpus")}
    return Recipe(dataset="t", covariates=covariates, splits=splits, **paths, **keys)


def break_all(good: Path, folder: Path) -> dict[str, str]:
    """A folder with one good recording and one of each bad kind; file -> what is to be said."""
    folder.mkdir()
    shutil.copy(good, folder / "good.nwb")
    expected = {}
    for kind, (change, words) in HDF5_KINDS.items():
        path = folder / f"{kind}.nwb"
        shutil.copy(good, path)
        with h5py.File(path, "r+") as f:
            del f["general/session_id"]  # else two of them might claim one session
            change(f)
        expected[path.name] = words
    for kind, (data, words) in bytes_kinds(good.read_bytes()).items():
        (folder / f"{kind}.nwb").write_bytes(data)
        expected[f"{kind}.nwb"] = words
    with h5py.File(folder / "other_hdf5.nwb", "w") as f:
        f["x"] = np.arange(4)
    expected["other_hdf5.nwb"] = "no nwb_version"
    os.mkfifo(folder / "pipe.nwb")
    expected["pipe.nwb"] = "not a regular file"
    (folder / "gone.nwb").symlink_to(folder / "nowhere.nwb")
    expected["gone.nwb"] = "No such file"
    (folder / "circle.nwb").symlink_to(folder / "circle.nwb")
    expected["circle.nwb"] = "symbolic link"
    return expected


@pytest.mark.timeout(120)
def test_each_of_forty_kinds_fails_alone_with_field_and_reason(good, tmp_path, without_ray, capsys):
    expected = break_all(good, tmp_path / "nwb")
    assert len(expected) >= 40
    manifest = job.prepare(recipe_of(tmp_path / "nwb"))
    assert [s.source for s in manifest.sessions] == ["good.nwb"]
    assert manifest.sessions[0].windows["train"].kept == 6
    said = {f.source: f.error for f in manifest.failed}
    assert said.keys() == expected.keys()
    wrong = {k: said[k] for k, words in expected.items() if words not in said[k]}
    assert not wrong
    told = capsys.readouterr().err
    for name, reason in said.items():
        assert "\n" not in reason
        assert len(reason) < 600
        assert str(tmp_path) not in reason
        assert f"failed: {name}: " in told
    assert "Traceback" not in told
    assert verify_corpus(str(tmp_path / "corpus")) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_flipped_bytes_is_read_or_refused_but_never_worse(good, tmp_path, seed):
    """Most flips hit bytes that nobody reads; what they hit otherwise is one error by name."""
    data, draw = good.read_bytes(), np.random.default_rng(seed)
    whole, refused = read_nwb(good, recipe_of(tmp_path)), []
    for number in range(60):
        broken = bytearray(data)
        # Half of them in the first bytes, where the file's own structure lies.
        most = len(data) if number % 2 else 4096
        for at in draw.integers(0, most, draw.integers(1, 20)):
            broken[at] ^= 1 << int(draw.integers(8))
        path = tmp_path / "broken.nwb"
        path.write_bytes(broken)
        try:
            found = read_nwb(path, recipe_of(tmp_path))
            assert len(found.covariates) <= len(whole.covariates)
        except BadInput as e:
            refused.append(str(e))
    assert len(refused) > 5
    for message in refused:
        assert message.startswith(f"{tmp_path / 'broken.nwb'}: ")
        assert "\n" not in message

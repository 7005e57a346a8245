"""NWB files through h5py: the same values as pynwb's, whatever way a file has written them."""

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from recordings import genuine, refusal

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers import hdf5
from ndt3_dist.readers.hdf5 import HDF5Group
from ndt3_dist.readers.nwb.nwb_file import NwbFile, open_nwb
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.options import CovariatesRecipe

VELOCITY = "processing/behavior/Velocity/cursor_vel"
SPIKES_ONLY = Recipe(dataset="t")
WITH_VELOCITY = Recipe(dataset="t", covariates=CovariatesRecipe(path=VELOCITY))


def assert_as_pynwb(path: Path) -> None:
    """Units, electrodes, tables of intervals and every series, value by value."""
    from pynwb import NWBHDF5IO, TimeSeries
    from pynwb.image import ImageSeries

    with NWBHDF5IO(str(path), "r", load_namespaces=True) as io, open_nwb(path) as ours:
        theirs = io.read()
        assert ours.text("general/subject/subject_id") == theirs.subject.subject_id
        assert ours.text("general/session_id") == theirs.session_id
        units, times = theirs.units, ours.units.column("spike_times")
        ends = ours.units.ends("spike_times", len(times))
        assert len(units) == len(ours.units)
        for unit, t in enumerate(np.split(times, ends[:-1])):
            np.testing.assert_array_equal(t, units["spike_times"][unit])
        if theirs.electrodes is not None:
            for name in ("id", "group_name"):
                column = [
                    c.decode() if isinstance(c, bytes) else c for c in theirs.electrodes[name]
                ]
                assert ours.electrodes.column(name).tolist() == column
        tables = ours.intervals()
        known = [theirs.trials, theirs.epochs, theirs.invalid_times, *theirs.intervals.values()]
        known = {t.name: t for t in known if t is not None}
        assert tables.keys() == known.keys()
        for name, table in tables.items():
            assert set(table.colnames) == set(known[name].colnames)
            for column in ("start_time", "stop_time"):
                np.testing.assert_array_equal(table.column(column), known[name][column][:])
        for item in theirs.objects.values():
            if isinstance(item, TimeSeries) and not isinstance(item, ImageSeries):
                series = ours.series(item.data.name.removesuffix("/data"))
                assert_same_series(series, item)


def assert_same_series(ours, theirs) -> None:
    np.testing.assert_array_equal(ours.data(), theirs.data[:])
    if theirs.timestamps is None:
        assert (ours.rate, ours.starting_time) == (theirs.rate, theirs.starting_time)
        assert ours.timestamps() is None
    else:
        np.testing.assert_array_equal(ours.timestamps(), theirs.timestamps[:])
    assert ours.unit == theirs.unit
    assert ours.attribute("conversion", 1.0) == theirs.conversion
    assert ours.attribute("offset", 0.0) == theirs.offset


@pytest.mark.parametrize("name", ["m1_stevenson_2011", "dandi000207_sub-4_ses-4", "pynapple_A8604"])
def test_genuine_files_hold_what_pynwb_reads(name):
    assert_as_pynwb(genuine(f"{name}.nwb"))


@pytest.mark.parametrize("clock", [{"rate": 100.0, "starting_time": 0.25}, {"timestamps": None}])
def test_a_written_file_holds_what_pynwb_reads(write_nwb, tmp_path, clock):
    if "timestamps" in clock:
        clock = {"timestamps": np.cumsum(np.full(40, 0.01))}
    samples = np.arange(80.0).reshape(40, 2)
    units = [[0.1, 0.2], [], [0.3]]
    path = write_nwb(tmp_path / "a.nwb", units, [3, 0, 1], covariates=samples, offset=2.0, **clock)
    assert_as_pynwb(path)


def test_times_and_data_may_be_links_within_the_file(write_session, tmp_path):
    path = write_session(tmp_path / "a.nwb", seed=0)
    with h5py.File(path, "a") as f:
        group = f.create_group("processing/behavior/Linked")
        group["data"] = h5py.SoftLink(f"/{VELOCITY}/data")
        group["timestamps"] = np.arange(1200) / 100
        f[f"{VELOCITY}/timestamps"] = h5py.SoftLink("/processing/behavior/Linked/timestamps")
    linked = CovariatesRecipe(path="processing/behavior/Linked", clock=VELOCITY)
    found = read_nwb(path, Recipe(dataset="t", covariates=linked))
    np.testing.assert_array_equal(found.covariates, read_nwb(path, WITH_VELOCITY).covariates)
    np.testing.assert_array_equal(found.covariate_times, np.arange(1200) / 100)


def test_strings_of_fixed_length_are_strings(write_nwb, tmp_path):
    groups = ("PMd", "M1", "M1", "PMd")
    path = write_nwb(tmp_path / "a.nwb", [[0.1], [0.2]], electrodes=[1, 0], groups=groups)
    expected = read_nwb(path, SPIKES_ONLY).arrays
    with h5py.File(path, "a") as f:
        column = f["general/extracellular_ephys/electrodes"]
        names = column["group_name"].asstr()[()]
        del column["group_name"]
        column["group_name"] = np.array(names, "S8")
    assert read_nwb(path, SPIKES_ONLY).arrays == expected


@pytest.mark.parametrize(
    "said", [["spike_times", "electrodes"], "spike_times,electrodes", "spike_times", None]
)
def test_column_names_are_read_in_every_form_that_writers_have(write_nwb, tmp_path, said):
    path = write_nwb(tmp_path / "a.nwb", [[0.1, 0.3], [0.2]])
    expected = [t.tolist() for t in read_nwb(path, SPIKES_ONLY).spike_times]
    with h5py.File(path, "a") as f:
        del f["units"].attrs["colnames"]
        if said is not None:
            f["units"].attrs["colnames"] = said
    assert [t.tolist() for t in read_nwb(path, SPIKES_ONLY).spike_times] == expected


@pytest.mark.parametrize(
    ("value", "session"), [(np.array(["s1"], object), "s1"), (b"s1", "s1"), (None, "07")]
)
def test_a_session_is_text_in_whatever_form_or_that_of_the_file_name(
    write_nwb, tmp_path, value, session
):
    path = write_nwb(tmp_path / "sub-A_ses-07.nwb", [[0.1]])
    with h5py.File(path, "a") as f:
        del f["general/session_id"]
        f["general/session_id"] = h5py.Empty("S1") if value is None else value
    assert read_nwb(path, SPIKES_ONLY).session == session


def test_zeros_that_unpack_to_a_thousand_times_their_size_are_refused(
    write_session, tmp_path, monkeypatch
):
    monkeypatch.setattr(hdf5, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(hdf5, "MOST_RATIO", 50)
    path = write_session(tmp_path / "a.nwb", seed=0)
    assert len(read_nwb(path, WITH_VELOCITY).covariates) == 1200
    with h5py.File(path, "a") as f:
        del f["units/spike_times"]
        packed = {"compression": "gzip", "compression_opts": 9}
        f.create_dataset("units/spike_times", data=np.zeros(1 << 20), **packed)
    assert "units/spike_times declares" in refusal(path)


def test_many_arrays_that_are_much_together_are_refused(write_session, tmp_path, monkeypatch):
    path = write_session(tmp_path / "a.nwb", seed=0)
    with h5py.File(path, "a") as f:
        for name in "abcdef":
            group = f.create_group(f"processing/behavior/Many/{name}")
            packed = {"compression": "gzip", "compression_opts": 9}
            group.create_dataset("data", data=np.zeros(1 << 17), **packed)
            group["timestamps"] = h5py.SoftLink("/processing/behavior/Many/times")
        f["processing/behavior/Many/times"] = np.arange(1 << 17) / 1e4
    many = Recipe(dataset="t", covariates=CovariatesRecipe(path="processing/behavior/Many/*"))
    assert read_nwb(path, many).covariates.shape == (1 << 17, 6)
    monkeypatch.setattr(hdf5, "FREE_BYTES", 1 << 21)  # each takes half of it
    monkeypatch.setattr(hdf5, "MOST_RATIO", 1)
    assert "declares" in refusal(path, many)


def test_one_long_string_named_many_times_is_refused_before_it_fills_the_memory(tmp_path):
    path, rows = tmp_path / "a.h5", 1000
    with h5py.File(path, "w") as f:
        names = f.create_dataset("names", (rows,), h5py.string_dtype())
        names[0] = "n" * 3_000_000
        at = names.id.get_offset()
    data = bytearray(path.read_bytes())
    data[at : at + 16 * rows] = data[at : at + 16] * rows  # length, heap and number in it
    path.write_bytes(data)
    with h5py.File(path) as f:
        assert len(f["names"][rows - 1]) == 3_000_000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(BadInput, match="names holds more than 1 GB of text"):
            NwbFile(HDF5Group(f), path.stat().st_size).read(HDF5Group(f)["names"], "names")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # KB

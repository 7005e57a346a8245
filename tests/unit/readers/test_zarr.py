"""NWB recordings as Zarr stores: the values of their HDF5 twins, and nothing that does harm."""

import bz2
import gzip
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from bad_nwb import ELECTRODES, TIMES, VELOCITY
from nwb_files import write_twin
from recordings import refusal

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers import hdf5
from ndt3_dist.readers.nwb.nwb_file import open_nwb
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.nwb.zarr_chunks import unpack
from ndt3_dist.readers.on_disk import sha256_of, size_of
from ndt3_dist.readers.recording import Recording
from ndt3_dist.storage import sha256_bytes

RECIPE = Recipe.model_validate({"dataset": "t", "covariates": {"path": VELOCITY}})
DATA, NAMES = f"{VELOCITY}/data", f"{ELECTRODES}/group_name"


@pytest.fixture
def store(write_session, tmp_path) -> Path:
    return write_session(tmp_path / "a.nwb.zarr", seed=0, groups=("PMd", "M1", "M1", "PMd"))


def assert_same(ours: Recording, theirs: Recording) -> None:
    np.testing.assert_equal(vars(ours), vars(theirs))


def told(store: Path, key: str, change) -> None:
    """Changes a file of metadata, and what is consolidated of it."""
    both = json.loads((store / ".zmetadata").read_text())
    change(both["metadata"].setdefault(key, {}))
    (store / ".zmetadata").write_text(json.dumps(both))
    (store / key).write_text(json.dumps(both["metadata"][key]))


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_store_holds_what_its_hdf5_twin_holds(write_session, tmp_path, consolidated):
    """Also without the metadata in one file; references are pickled there, which nobody reads."""
    path = write_session(tmp_path / "a.nwb", seed=0, groups=("PMd", "M1", "M1", "PMd"))
    twin = write_twin(path)
    codec = json.loads((twin / f"{ELECTRODES}/group/.zarray").read_text())["filters"][0]["id"]
    assert codec == "pickle"
    if not consolidated:
        (twin / ".zmetadata").unlink()
    assert_same(read_nwb(twin, RECIPE), read_nwb(path, RECIPE))


def test_links_and_tables_are_read_as_those_of_hdf5(tmp_path):
    from datetime import UTC, datetime

    from hdmf_zarr import NWBZarrIO
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries

    def recording() -> NWBFile:
        nwb = NWBFile("test", "x", datetime(2020, 1, 1, tzinfo=UTC))
        nwb.add_unit(spike_times=np.arange(1, 400) / 40)
        nwb.add_trial_column("result", "how it ended")
        for trial in range(3):
            nwb.add_trial(start_time=3.0 * trial, stop_time=3.0 * trial + 2, result="RFA"[trial])
        values = np.arange(2000.0).reshape(1000, 2)
        first = TimeSeries(name="a", data=values, unit="m", timestamps=np.arange(1000) / 100)
        nwb.add_acquisition(first)
        nwb.add_acquisition(TimeSeries(name="b", data=-values, unit="m", timestamps=first))
        return nwb

    for io, name in ((NWBHDF5IO, "a.nwb"), (NWBZarrIO, "a.nwb.zarr")):
        with io(str(tmp_path / name), "w") as file:
            file.write(recording())
    assert "zarr_link" in json.loads((tmp_path / "a.nwb.zarr/acquisition/b/.zattrs").read_text())
    recipe = Recipe.model_validate(
        {
            "dataset": "t",
            "covariates": {"path": "acquisition/*"},
            "validity": {"table": "trials", "column": "result", "values": ["R", "A"]},
        }
    )
    found = read_nwb(tmp_path / "a.nwb.zarr", recipe)
    assert found.covariates.shape == (1000, 4)
    assert_same(found, read_nwb(tmp_path / "a.nwb", recipe))
    # Neither has a session id: what their names say, less what kind of file it is.
    assert found.session == "a"


PACKED = {
    "plain": {"compressor": None},
    "blosc_zstd": {"compressor": numcodecs.Blosc("zstd", shuffle=2)},
    "zstd": {"compressor": numcodecs.Zstd()},
    "lz4": {"compressor": numcodecs.LZ4()},
    "gzip": {"compressor": numcodecs.GZip()},
    "zlib_shuffle": {"compressor": numcodecs.Zlib(), "filters": [numcodecs.Shuffle(8)]},
    "bz2": {"compressor": numcodecs.BZ2()},
    "columns_first": {"order": "F"},
    "folders": {"dimension_separator": "/"},
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("rows", [7, 480, 5000])
def test_chunks_of_every_kind_are_put_together(store, name, rows):
    expected = read_nwb(store, RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        for key, chunks in ((TIMES, (rows,)), (DATA, (rows, 1 + rows % 2))):
            array = zarr.open(key, mode="r")
            values, attributes = array[:], dict(array.attrs)
            made = zarr.open(
                key, "w", shape=values.shape, chunks=chunks, dtype="f8", **PACKED[name]
            )
            made[:] = values
            made.attrs.update(attributes)
        text = zarr.open(NAMES, mode="r")
        values, attributes = text[:], dict(text.attrs)
        made = zarr.open(
            NAMES, "w", shape=4, chunks=3, dtype=str, compressor=PACKED[name].get("compressor")
        )
        made[:] = values
        made.attrs.update(attributes)
        zarr.consolidate_metadata(".")
    assert_same(read_nwb(store, RECIPE), expected)


class Harm:
    """Once it is unpickled, there is a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def codec_of(key: str, **codec):
    def change(store: Path) -> None:
        told(store, f"{key}/.zarray", lambda t: t.update(compressor=codec))

    return change


def filter_of(key: str, **codec):
    def change(store: Path) -> None:
        told(store, f"{key}/.zarray", lambda t: t.update(filters=[codec]))
        (store / key / "0").write_bytes(pickle.dumps(Harm(store.parent / "harm")))

    return change


def chunk_of(key: str, data: bytes, **codec):
    def change(store: Path) -> None:
        told(store, f"{key}/.zarray", lambda t: t.update(compressor=codec or None))
        first = next(p for p in (store / key).iterdir() if p.name[0] != ".")
        first.write_bytes(data)

    return change


def shape_of(key: str, **shape):
    return lambda store: told(store, f"{key}/.zarray", lambda t: t.update(shape))


def linked(source: str):
    """Samples that are a link."""

    def change(store: Path) -> None:
        link = {"name": "data", "source": source, "path": "/x"}
        told(store, f"{VELOCITY}/.zattrs", lambda t: t.update(zarr_link=[link]))

    return change


def symbolic(store: Path) -> None:
    (store.parent / "secret").write_bytes(bytes(8))
    (store / TIMES / "0").unlink()
    (store / TIMES / "0").symlink_to(store.parent / "secret")


def version_3(store: Path) -> None:
    (store / "zarr.json").write_text("{}")


def no_group(store: Path) -> None:
    (store / ".zmetadata").unlink()
    (store / ".zgroup").unlink()


ZEROS = bytes(20 << 20)
BAD = {
    "pickled_text": (
        filter_of("general/session_id", id="pickle", protocol=5),
        "general/session_id is packed by the codec pickle, which runs what a file says; refused",
    ),
    "pickled_names": (filter_of(NAMES, id="pickle"), f"{NAMES} is packed by the codec pickle"),
    "pickle_as_compressor": (
        codec_of(TIMES, id="pickle"),
        f"{TIMES} is packed by the codec pickle",
    ),
    "unknown_codec": (codec_of(TIMES, id="wavpack"), "the codec wavpack, which is not read"),
    "link_outside": (linked("../other.nwb.zarr"), f"{DATA} is an external link to another file"),
    "link_to_a_url": (linked("s3://lab/x.zarr"), f"{DATA} is an external link to another file"),
    "link_to_its_like": (linked("./../b.zarr"), f"{DATA} is an external link to another file"),
    "symbolic_link": (symbolic, f"{TIMES}/0 is a link or no plain file"),
    "missing_chunk": (lambda s: (s / TIMES / "0").unlink(), f"{TIMES} lacks its chunk 0"),
    "bomb_of_gzip": (chunk_of(TIMES, gzip.compress(ZEROS), id="gzip"), "a chunk of 3841 bytes"),
    "bomb_of_bz2": (chunk_of(TIMES, bz2.compress(ZEROS), id="bz2"), "a chunk of 3841 bytes"),
    "bomb_of_blosc": (
        chunk_of(TIMES, numcodecs.Blosc().encode(ZEROS), id="blosc"),
        "a chunk of 20971520 bytes; expected 3840",
    ),
    "bomb_of_zstd": (
        chunk_of(TIMES, numcodecs.Zstd().encode(ZEROS), id="zstd"),
        "a chunk of 20971520 bytes; expected 3840",
    ),
    "bomb_of_lz4": (
        chunk_of(TIMES, numcodecs.LZ4().encode(ZEROS), id="lz4"),
        "a chunk of 20971520 bytes; expected 3840",
    ),
    "bomb_of_text": (
        chunk_of(NAMES, gzip.compress(ZEROS), id="gzip"),
        f"{NAMES} has a chunk of text of 10 MB; refused",
    ),
    "many_strings": (
        chunk_of(NAMES, struct.pack("<I", 1 << 31) + bytes(16)),
        f"{NAMES} has a chunk that is no text of 4 strings",
    ),
    "long_string": (
        chunk_of(NAMES, struct.pack("<II", 4, 1 << 31) + bytes(16)),
        f"{NAMES} has a chunk that is no text of 4 strings",
    ),
    "short_chunk": (chunk_of(TIMES, bytes(80)), "a chunk of 80 bytes; expected 3840"),
    "huge_shape": (shape_of(TIMES, shape=[1 << 40]), f"{TIMES} declares 8796.1 GB"),
    "huge_chunk": (shape_of(TIMES, chunks=[1 << 40]), f"{TIMES} declares 8796.1 GB"),
    "no_shape": (shape_of(TIMES, shape=[-1]), "a shape of [-1]; expected whole numbers"),
    "chunks_of_nothing": (shape_of(TIMES, chunks=[0]), f"{TIMES}/.zarray has no shape and chunks"),
    "values_of_parts": (
        shape_of(TIMES, dtype=[["a", "<f8"]]),
        f"{TIMES} holds [['a', '<f8']]; expected numbers or text",
    ),
    "version_3": (version_3, "a Zarr store of format 3; expected format 2"),
    "no_store": (no_group, "a folder without .zgroup; expected NWB 2"),
    "no_json": (
        lambda s: (s / ".zmetadata").write_text("{"),
        ".zmetadata is not valid JSON",
    ),
    "nwb_1": (
        lambda s: told(s, ".zattrs", lambda t: t.update(nwb_version="1.0.5")),
        "not a readable NWB file (NWB 1.0.5); expected NWB 2",
    ),
}
"""What is done to a good store, and what is said of it."""


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_store_is_refused_by_name(store, kind, monkeypatch):
    monkeypatch.setattr(hdf5, "FREE_BYTES", 10 << 20)
    monkeypatch.setattr(hdf5, "MOST_RATIO", 50)
    assert read_nwb(store, RECIPE).covariates.shape == (1200, 2)
    change, words = BAD[kind]
    change(store)
    assert words in refusal(store, RECIPE)
    assert not (store.parent / "harm").exists()


@pytest.mark.parametrize("codec", [numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.LZ4()])
def test_what_says_that_it_unpacks_to_another_size_is_not_unpacked(codec, monkeypatch):
    data = bytes(codec.encode(ZEROS))
    assert unpack(data, {"id": codec.codec_id}, len(ZEROS), "x") == ZEROS
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    with pytest.raises(BadInput, match="x has a chunk of 20971520 bytes; expected 80"):
        unpack(data, {"id": codec.codec_id}, 80, "x")


def test_a_single_value_is_one_as_in_hdf5(store):
    with open_nwb(store) as nwb:
        session, start = nwb.h5["general/session_id"], nwb.h5[f"{VELOCITY}/starting_time"]
        assert (session.ndim, session[()]) == (0, "a.nwb")
        assert (start.shape, start.size, np.shape(start[()])) == ((), 1, ())


def test_links_in_a_circle_are_refused_and_those_that_nobody_reads_are_not(store):
    expected = read_nwb(store, RECIPE)
    link = {"name": "raw", "source": "../raw.nwb.zarr", "path": "/acquisition/raw"}
    told(store, "acquisition/.zattrs", lambda t: t.update(zarr_link=[link]))
    assert_same(read_nwb(store, RECIPE), expected)
    circle = {"name": "data", "source": ".", "path": f"/{DATA}"}
    told(store, f"{VELOCITY}/.zattrs", lambda t: t.update(zarr_link=[circle]))
    assert f"{DATA} is a link that leads nowhere" in refusal(store, RECIPE)


def test_without_numcodecs_the_array_and_the_remedy_are_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    said = refusal(store, RECIPE)
    assert "general/subject/subject_id is compressed by blosc; `pip install numcodecs`" in said


def test_the_hash_of_a_folder_is_that_of_its_names_and_contents(tmp_path):
    folder = tmp_path / "a.nwb.zarr"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "0").write_bytes(b"12")
    (folder / "b.0").write_bytes(b"345")
    lines = [f"b.0\0{sha256_bytes(b'345')}\n", f"b/0\0{sha256_bytes(b'12')}\n"]
    assert sha256_of(folder) == sha256_bytes("".join(lines).encode())
    assert size_of(folder) == 5
    before = sha256_of(folder)
    (folder / "b.0").rename(folder / "b.1")
    assert sha256_of(folder) != before

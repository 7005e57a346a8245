"""Shards are plain WebDataset tars, byte for byte repeatable; no damage goes unnoticed.

Regenerate the golden hash, after a deliberate change of the format alone, with
`pytest tests/unit/shards -k golden`: the failure shows the new one.
"""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ManifestMismatch, ShardCorrupt
from ndt3_dist.shards import manifest as corpus_format
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.index import STREAMS_1
from ndt3_dist.shards.manifest import Manifest, index_path, read_manifest, sample_key, shard_path
from ndt3_dist.shards.npy import parse_npy
from ndt3_dist.shards.summary import corpus_table
from ndt3_dist.shards.verify import verify_corpus
from ndt3_dist.shards.write import npy_bytes, write_shard

CHANNELS, BINS, DIMS = 96, 100, 2
STREAMS = ("spikes", "covariates")
GOLDEN = "45c55b3713b98c3733fb8ffd56b2ef4e"
GOLDEN_1 = "7e345c9b61fcac2d0593f1557c20676a"


def make_samples(count: int, seed: int = 0) -> list[tuple[str, dict, dict]]:
    """Windows as `write_shard` takes them, of session 0, end to end."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        spikes = rng.integers(0, 4, (BINS, CHANNELS), dtype=np.uint8)
        covariates = (rng.integers(-999, 999, (BINS, DIMS)) / 1024).astype(np.float32)
        fields = {
            "session": 0,
            "start_bin": number * BINS,
            "bins": BINS,
            "values": {"spikes": spikes.size, "covariates": covariates.size},
        }
        members = {"spikes": npy_bytes(spikes), "covariates": npy_bytes(covariates)}
        samples.append((sample_key("t-A-01", number * BINS), members, fields))
    return samples


def write_corpus(folder: Path) -> str:
    """A corpus of one session: shards of 5 train, 5 train and 3 test windows."""
    samples, shards = make_samples(13), []
    for name, split, part in (
        ("000000", "train", samples[:5]),
        ("000001", "train", samples[5:10]),
        ("000002", "test", samples[10:]),
    ):
        paths = shard_path(str(folder), name), index_path(str(folder), name)
        shards.append({"name": name, "split": split, **write_shard(*paths, part, STREAMS)})
    session = {
        "id": "t-A-01",
        "dataset": "t",
        "subject": "A",
        "session": "01",
        "source": "a.nwb",
        "source_sha256": "0" * 64,
        "licence": "CC0-1.0",
        "bins": 13 * BINS,
        "start_s": 0.0,
        "arrays": [{"name": "M1", "channels": CHANNELS}],
        "covariates": [{"name": n, "unit": "cm/s", "scale": 2.0} for n in "xy"],
        "intervals": [
            {"split": "train", "start_bin": 0, "stop_bin": 10 * BINS},
            {"split": "test", "start_bin": 10 * BINS, "stop_bin": 13 * BINS},
        ],
        "windows": {"train": {"kept": 10, "rejected": {"no_spikes": 2}}, "test": {"kept": 3}},
        "spikes": 1000,
        "spikes_outside": 0,
    }
    values = {
        "fingerprint": "",
        "bin_size_ms": 20.0,
        "window_bins": BINS,
        "streams": dict.fromkeys(STREAMS, ""),
        "recipe": {},
        "recipe_sha256": storage.sha256_bytes(b"{}"),
        "sessions": [session],
        "shards": shards,
    }
    sign(values)
    storage.write_json(folder / "manifest.json", Manifest(**values).dump())
    return str(folder)


def sign(values: dict) -> None:
    """Give a manifest the fingerprint of what it holds."""
    manifest = Manifest.model_construct(**values)
    values["fingerprint"] = corpus_format.fingerprint(
        [corpus_format.Session(**s) for s in values["sessions"]],
        [corpus_format.Shard.model_construct(**s) for s in values["shards"]],
        manifest.bin_size_ms,
        manifest.window_bins,
        values.get("version", 2),
    )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture
def corpus(pristine, tmp_path):
    """A copy of the corpus, to be damaged."""
    return str(shutil.copytree(pristine, tmp_path / "corpus"))


def edit_manifest(corpus: str, change, signed: bool = False) -> None:
    path = Path(corpus) / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    if signed:
        sign(values)
    path.write_text(json.dumps(values))


def flip(path: str, at: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    Path(path).write_bytes(data)


def test_same_samples_give_the_same_bytes(tmp_path):
    written = []
    for attempt in ("a", "b"):
        tar, index = tmp_path / attempt / "s.tar", tmp_path / attempt / "i.npy"
        written.append((write_shard(str(tar), str(index), make_samples(4), STREAMS), tar, index))
    assert written[0][0] == written[1][0]
    assert written[0][1].read_bytes() == written[1][1].read_bytes()
    assert written[0][2].read_bytes() == written[1][2].read_bytes()
    other = write_shard(
        str(tmp_path / "o.tar"), str(tmp_path / "o.npy"), make_samples(4, seed=1), STREAMS
    )
    assert other["sha256"] != written[0][0]["sha256"]


def test_shard_bytes_have_their_golden_hash(tmp_path):
    written = write_shard(
        str(tmp_path / "s.tar"), str(tmp_path / "s.npy"), make_samples(3), STREAMS
    )
    both = written["sha256"] + written["index_sha256"]
    assert storage.sha256_bytes(both.encode())[:32] == GOLDEN


def test_headers_hold_no_time_owner_or_host(pristine):
    with tarfile.open(shard_path(pristine, "000000")) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert (member.uname, member.gname) == ("", "")
            assert member.isreg()


def test_every_window_reads_back_as_it_was_written(pristine):
    opened = Corpus(pristine, ("train", "test"))
    assert len(opened) == 13
    for number, (key, members, fields) in enumerate(make_samples(13)):
        sample = opened.read(number)
        assert opened.key(number) == key
        assert opened.session_of(number).id == "t-A-01"
        assert npy_bytes(sample["spikes"]) == members["spikes"]
        assert npy_bytes(sample["covariates"]) == members["covariates"]
        assert set(sample) == {"spikes", "covariates"}
        record = opened.index[number]
        assert [int(record[k]) for k in ("session", "start_bin", "bins")] == [
            fields[k] for k in ("session", "start_bin", "bins")
        ]
        assert {s: int(record[s]["values"]) for s in STREAMS} == fields["values"]
    opened.close()


def test_version_1_is_written_to_the_byte_as_ever(tmp_path):
    """The hash is that of the program which knew no other version."""
    paths = str(tmp_path / "s.tar"), str(tmp_path / "s.npy")
    written = write_shard(*paths, make_samples(3), STREAMS, version_1={0: (3, 2)})
    both = written["sha256"] + written["index_sha256"]
    assert storage.sha256_bytes(both.encode())[:32] == GOLDEN_1
    assert written["tokens"] == 3 * (BINS * 5 + 3)


def test_constraint_and_return_read_back_where_a_sample_has_them(tmp_path):
    key, members, fields = make_samples(1)[0]
    constraint = np.ones((BINS, 3, DIMS), np.float32)
    returns = np.arange(2 * BINS).reshape(BINS, 2)
    members |= {"constraint": npy_bytes(constraint), "return": npy_bytes(returns)}
    fields["values"] |= {"constraint": 3 * DIMS, "return": 2 * BINS}
    tar = tmp_path / "s.tar"
    write_shard(str(tar), str(tmp_path / "i.npy"), [(key, members, fields)], STREAMS_1)
    (record,) = np.load(tmp_path / "i.npy")
    data = tar.read_bytes()
    found = [data[record[s]["offset"] :][: record[s]["size"]] for s in STREAMS_1]
    assert found == [members[name] for name in STREAMS_1]


def test_stock_webdataset_reads_the_same_arrays_and_keys(pristine):
    import webdataset

    shards = [shard_path(pristine, name) for name in ("000000", "000001")]
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    expected = make_samples(10)
    assert [s["__key__"] for s in found] == [key for key, *_ in expected]
    for sample, (_, members, _) in zip(found, expected, strict=True):
        assert npy_bytes(sample["spikes.npy"]) == members["spikes"]
        assert npy_bytes(sample["covariates.npy"]) == members["covariates"]


def test_a_shard_is_at_most_a_quarter_larger_than_its_arrays(tmp_path):
    written = write_shard(
        str(tmp_path / "s.tar"), str(tmp_path / "s.npy"), make_samples(60), STREAMS
    )
    raw = 60 * (BINS * CHANNELS + 4 * BINS * DIMS)
    assert raw < written["bytes"] <= 1.25 * raw


def test_splits_are_opened_apart_and_an_absent_one_is_refused(pristine):
    assert len(Corpus(pristine, ("test",))) == 3
    with pytest.raises(ManifestMismatch, match="no window in split val"):
        Corpus(pristine, ("val",))


def test_a_sound_corpus_has_no_problem(pristine):
    assert verify_corpus(pristine) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_byte_is_found_in_its_window_and_nowhere_else(corpus, seed):
    rng = np.random.default_rng(seed)
    opened = Corpus(corpus)
    victim, stream = int(rng.integers(5, 10)), int(rng.integers(2))
    record = opened.index[victim]
    member = record[STREAMS[stream]]
    at = int(member["offset"]) + int(rng.integers(member["size"]))
    tar = shard_path(corpus, "000001")
    flip(tar, at)
    with pytest.raises(ShardCorrupt) as caught:
        opened.read(victim)
    assert tar in str(caught.value)
    assert opened.key(victim) in str(caught.value)
    for number in set(range(10)) - {victim}:
        opened.read(number)
    problems = verify_corpus(corpus)
    assert len(problems) == 1
    assert tar in problems[0]


@pytest.mark.parametrize("length", [0, 511, 30000])
def test_a_truncated_shard_is_refused(corpus, length):
    tar = Path(shard_path(corpus, "000000"))
    tar.write_bytes(tar.read_bytes()[:length])
    with pytest.raises(ShardCorrupt, match=f"000000.tar: {length} bytes, the manifest has"):
        Corpus(corpus).read(0)
    assert len(verify_corpus(corpus)) == 1


def test_a_shard_with_more_behind_its_end_is_refused(corpus):
    with Path(shard_path(corpus, "000000")).open("ab") as f:
        f.write(b"more")
    with pytest.raises(ShardCorrupt, match="bytes, the manifest has"):
        Corpus(corpus).read(0)


@pytest.mark.parametrize("which", [shard_path, index_path])
def test_a_missing_file_of_a_shard_is_named(corpus, which):
    path = which(corpus, "000001")
    Path(path).unlink()
    with pytest.raises(ShardCorrupt) as caught:
        Corpus(corpus).read(7)
    assert f"{path}: missing" in str(caught.value)
    problems = verify_corpus(corpus)
    assert len(problems) == 1
    assert f"{path}: missing" in problems[0]


def test_an_index_replaced_by_that_of_another_shard_is_refused(corpus):
    shutil.copyfile(index_path(corpus, "000001"), index_path(corpus, "000000"))
    with pytest.raises(ShardCorrupt, match=r"000000\.index\.npy: its sha256 is not"):
        assert Corpus(corpus).index is None


@pytest.mark.parametrize("field", ["spikes", "session", "crc32"])
def test_an_edited_index_is_refused(corpus, field):
    path = index_path(corpus, "000000")
    index = np.load(path)
    found = index[field] if field != "spikes" else index[field]["offset"]
    found[2] += 1
    Path(path).write_bytes(npy_bytes(index))
    with pytest.raises(ShardCorrupt, match="its sha256 is not"):
        assert Corpus(corpus).index is None


def edit_scale(values):
    values["sessions"][0]["covariates"][1]["scale"] = 20.0


def edit_split(values):
    values["shards"][2]["split"] = "train"


def edit_hash(values):
    values["shards"][0]["sha256"] = "f" * 64


def edit_bin(values):
    values["bin_size_ms"] = 10.0


def drop_shard(values):
    values["shards"].pop()


@pytest.mark.parametrize("change", [edit_scale, edit_split, edit_hash, edit_bin, drop_shard])
def test_an_edited_manifest_is_refused(corpus, change):
    edit_manifest(corpus, change)
    with pytest.raises(ManifestMismatch, match="it was edited"):
        read_manifest(corpus)


@pytest.mark.parametrize("name", ["../x", "/etc/pw", "00000", "0000000", "00000a", "000000\n"])
def test_a_shard_name_that_is_not_six_digits_is_refused_however_well_signed(corpus, name):
    edit_manifest(corpus, lambda values: values["shards"][0].update(name=name), signed=True)
    with pytest.raises(ManifestMismatch, match=r"shards\.0\.name"):
        read_manifest(corpus)


def test_a_manifest_of_another_kind_version_or_schema_is_refused(corpus):
    edit_manifest(corpus, lambda values: values.update(more=1))
    with pytest.raises(ManifestMismatch, match="more"):
        read_manifest(corpus)
    edit_manifest(corpus, lambda values: values.update(version=3))
    with pytest.raises(ManifestMismatch, match="corpus version 3, this program reads 1 and 2"):
        read_manifest(corpus)
    (Path(corpus) / "manifest.json").write_text('{"a": 1}')
    with pytest.raises(ManifestMismatch, match="not a manifest"):
        read_manifest(corpus)
    (Path(corpus) / "manifest.json").write_text('{"a": ')
    with pytest.raises(BadInput, match="not valid JSON"):
        read_manifest(corpus)
    (Path(corpus) / "manifest.json").unlink()
    with pytest.raises(ManifestMismatch, match="no manifest"):
        read_manifest(corpus)


def test_pickles_archives_and_trailing_bytes_are_no_arrays():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    pickled = buffer.getvalue()
    np.savez(archive := io.BytesIO(), np.zeros(3))
    good = npy_bytes(np.zeros(3))
    for bad in (pickled, archive.getvalue(), good + b"x", good[:-1], b"", b"\x93NUMPY"):
        with pytest.raises(ShardCorrupt, match="here"):
            parse_npy(bad, "here")
    assert parse_npy(good, "here").tolist() == [0, 0, 0]
    with pytest.raises(ValueError):
        npy_bytes(np.array([{"a": 1}], object))


def test_keys_of_any_session_fit_their_tar_header_and_stay_distinct(tmp_path):
    longest = [corpus_format.session_id("d" * 60, "s" * 60, f"{n}" * 60) for n in range(2)]
    odd = corpus_format.session_id("a/../b", "..", "x.y z\u00e9")
    assert longest[0] != longest[1]
    assert "/" not in odd
    assert "." not in odd
    _, members, fields = make_samples(1)[0]
    members = {name: members["spikes"] for name in STREAMS_1}
    fields["values"] = dict.fromkeys(STREAMS_1, 0)
    keys = [sample_key(name, 99_999_999) for name in (*longest, odd)]
    write_shard(
        str(tmp_path / "s.tar"),
        str(tmp_path / "i.npy"),
        [(k, members, fields) for k in keys],
        STREAMS_1,
    )
    with tarfile.open(tmp_path / "s.tar") as tar:
        names = tar.getnames()
    assert names == [f"{k}.{m}.npy" for k in keys for m in STREAMS_1]


def test_the_fingerprint_ignores_where_recordings_lay(pristine):
    manifest = read_manifest(pristine)
    moved = [s.model_copy(update={"source": "elsewhere/b.nwb"}) for s in manifest.sessions]
    assert corpus_format.fingerprint(moved, manifest.shards, 20.0, BINS) == manifest.fingerprint
    other = [s.model_copy(update={"source_sha256": "1" * 64}) for s in manifest.sessions]
    assert corpus_format.fingerprint(other, manifest.shards, 20.0, BINS) != manifest.fingerprint


def test_the_table_of_a_corpus_tells_what_it_holds(pristine):
    table = corpus_table(read_manifest(pristine))
    assert "t-A-01" in table
    assert "10 train, 3 test" in table
    assert "2 no_spikes" in table
    assert "1 sessions, 13 windows, 3 shards" in table

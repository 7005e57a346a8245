"""Files appear whole or not at all."""

import errno

import pytest

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ManifestMismatch


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path):
    path = tmp_path / "a.json"
    storage.write_bytes(path, b"old")

    def torn():
        with storage.atomic_file(path) as f:
            f.write(b"new")
            raise RuntimeError("torn")

    with pytest.raises(RuntimeError, match="torn"):
        torn()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """On two hosts their processes may have the same number: here they are one process."""
    path = tmp_path / "a.bin"
    with storage.atomic_file(path) as slow:
        slow.write(b"sl")
        with storage.atomic_file(path) as fast:
            fast.write(b"fast")
        assert path.read_bytes() == b"fast"
        slow.write(b"ow")
    assert path.read_bytes() == b"slow"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "a.bin"
    with (
        pytest.raises(BadInput, match=r"no room on the disk of .*a\.bin"),
        storage.atomic_file(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_work_that_cannot_fit_is_refused_before_it_begins(tmp_path):
    with pytest.raises(BadInput, match="no room"):
        storage.check_room(tmp_path / "not" / "there" / "yet", 1 << 60)
    storage.check_room(tmp_path, 1)


def test_canonical_json_depends_on_the_value_alone():
    assert storage.canonical_json({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}'
    assert storage.canonical_json({"a": [1.5, None], "b": 1}) == b'{"a":[1.5,null],"b":1}'


def test_broken_json_is_named(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(BadInput, match=r"m\.json: not valid JSON"):
        storage.read_json(tmp_path / "m.json")


def test_a_job_that_is_over_writes_nothing_with_a_later_attempt(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    attempts = []

    def fails(self, path, data, **_):
        attempts.append(path)
        raise OSError("503")

    def check():
        if attempts:
            raise ManifestMismatch("another job has begun")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fails)
    with pytest.raises(ManifestMismatch, match="another job"):
        storage.write_json("memory://c/manifest.json", {}, check)
    assert len(attempts) == 1


def test_a_file_goes_from_one_kind_of_store_to_another(tmp_path):
    storage.write_bytes("memory://from/a", b"of a shard")
    storage.copy("memory://from/a", f"file://{tmp_path}/a")
    storage.copy(f"file://{tmp_path}/a", tmp_path / "b")
    storage.copy(tmp_path / "b", "memory://to/c")
    assert storage.read_bytes("memory://to/c") == (tmp_path / "a").read_bytes() == b"of a shard"

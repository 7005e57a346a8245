"""Objects of a store through its faults: whole or not at all, and nothing left over."""

import itertools
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from s3_server import KEY, S3, SECRET, use

from ndt3_dist import remote, storage
from ndt3_dist.errors import ManifestMismatch, StoreFailed

LARGE = bytes(range(256)) * 44_000
"""11 MB: three parts of 5 MB, the smallest there are."""
FAULTS = [
    ("POST", "?uploads", "503"),
    ("PUT", "partNumber=2", "503"),
    ("PUT", "partNumber=2", "reset"),
    ("POST", "uploadId=", "500"),
    ("POST", "uploadId=", "503"),
    ("POST", "uploadId=", "200"),
    ("POST", "uploadId=", "lost"),
    ("POST", "uploadId=", "storm"),
]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("s3")
    (root / "lab").mkdir()
    s3 = S3(root)
    yield s3
    s3.close()


@pytest.fixture
def store(server, monkeypatch):
    """A folder of its own in the store; nobody but `with_retries` tries again."""
    import s3fs

    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(remote, "ATTEMPTS", 5)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    use(server)
    yield f"s3://lab/{next(NUMBERS)}"
    server.faults.clear()


def unfinished() -> list:
    try:
        return remote.filesystem("s3://lab").list_multipart_uploads("lab")
    except FileNotFoundError:  # what rclone says of a bucket that never had one
        return []


def write(path: str, way: str) -> None:
    if way == "whole":
        storage.write_bytes(path, LARGE)
    else:
        starts = range(0, len(LARGE), 999_999)
        storage.write_pieces(path, lambda: (LARGE[i : i + 999_999] for i in starts))


@pytest.mark.parametrize(("method", "part", "kind"), FAULTS)
def test_an_upload_in_parts_survives(server, store, method, part, kind):
    server.fail(part, kind, 1, method)
    write(f"{store}/large", "whole" if kind == "lost" else "pieces")
    assert server.faults[0][3] == 0
    assert storage.read_bytes(f"{store}/large") == LARGE
    assert unfinished() == []


def test_a_completion_that_is_asked_for_again_may_have_been_done(server, store, monkeypatch):
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    server.fail("uploadId=", "lost", 1, "POST")
    write(f"{store}/large", "pieces")
    assert storage.read_bytes(f"{store}/large") == LARGE
    assert unfinished() == []


@pytest.mark.parametrize(("method", "part", "kind"), FAULTS[:-2])
def test_an_upload_that_cannot_be_ends_in_one_error_and_leaves_nothing(
    server, store, method, part, kind, monkeypatch
):
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    server.fail(part, kind, method=method)
    with pytest.raises(StoreFailed, match=r"large: cannot be written after 2 tries \("):
        write(f"{store}/large", "whole")
    server.faults.clear()
    assert not storage.exists(f"{store}/large")
    assert unfinished() == []
    write(f"{store}/large", "whole")
    assert storage.read_bytes(f"{store}/large") == LARGE


@pytest.mark.parametrize("kind", ["503", "reset", "cut", "slow", "storm"])
def test_a_read_survives(server, store, kind):
    storage.write_bytes(f"{store}/large", LARGE)
    server.fail("large", kind, 1)
    assert (
        remote.read_range(f"{store}/large", 1000, 9_000_000, timeout_s=3) == LARGE[1000:9_000_000]
    )
    assert server.faults[0][3] == 0


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda store: storage.exists(f"{store}/a"), True),
        (lambda store: storage.exists("s3://lab"), True),
        (lambda store: storage.size(f"{store}/a"), 1),
        (lambda store: storage.list_names(store), ["a"]),
        (lambda store: storage.walk(store), {"a": 1}),
        (lambda store: storage.read_text(f"{store}/a"), "1"),
    ],
)
def test_a_store_that_is_down_is_no_answer(server, store, ask, expected):
    storage.write_bytes(f"{store}/a", b"1")
    server.storm_ends = time.monotonic() + 0.7
    assert ask(store) == expected


def test_what_a_store_silently_does_not_remove_is_no_success(server, store, monkeypatch):
    for name in "abc":
        storage.write_bytes(f"{store}/{name}", b"1")
    server.fail("?delete", "200", 1, "POST")
    storage.remove(store)
    assert storage.list_names(store) == []
    storage.write_bytes(f"{store}/a", b"1")
    storage.write_bytes(f"{store}/b", b"1")
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    server.fail("?delete", "200", method="POST")
    with pytest.raises(StoreFailed, match=r"cannot be removed .* 2 objects still there, such as"):
        storage.remove(store)


def read_in_child(path: str) -> None:
    os._exit(0 if storage.read_bytes(path) == b"1" else 3)


@pytest.mark.parametrize("trial", range(3))
def test_a_process_that_used_a_store_may_fork(server, store, trial):
    storage.write_bytes(f"{store}/a", b"1")
    child = multiprocessing.get_context("fork").Process(target=read_in_child, args=[f"{store}/a"])
    child.start()
    child.join(30)
    assert child.exitcode == 0
    begun = time.monotonic()
    assert storage.read_bytes(f"{store}/a") == b"1"
    assert time.monotonic() - begun < 5  # the parent's connections are still its own


CONFIGS = {
    "a profile": "[profile lab]\nendpoint_url = {url}\nregion = us-east-1\n",
    "a service": "[profile lab]\nservices = here\n[services here]\ns3 =\n  endpoint_url = {url}\n",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_endpoint_and_key_are_found_in_a_profile(server, store, tmp_path, config):
    storage.write_bytes(f"{store}/a", b"1")
    url = server.environment["AWS_ENDPOINT_URL"]
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIGS[config].format(url=url))
    keys = f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / ".aws" / "credentials").write_text(keys)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"HOME": str(tmp_path), "AWS_PROFILE": "lab", "AWS_DEFAULT_REGION": "us-east-1"}
    code = f"from ndt3_dist import storage; print(storage.read_bytes('{store}/a'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "b'1'\n", done.stderr


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_each_attempt_at_an_object_asks_whether_it_may_appear(store, data, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: None)
    answers = [OSError("no answer"), None]

    def check():
        if answer := answers.pop(0):
            raise answer

    remote.put(f"{store}/a", data, check)
    assert answers == []
    assert remote.size(f"{store}/a") == len(data)

    def refuse():
        raise ManifestMismatch("another job's")

    with pytest.raises(ManifestMismatch, match="another job's"):
        remote.put(f"{store}/b", data, refuse)
    assert not remote.exists(f"{store}/b")
    assert unfinished() == []


def test_a_fault_is_told_in_one_line_without_signatures():
    def fail():
        raise OSError("403 for url 'https://host/f?sig=secret'\n\nForbidden")

    with pytest.raises(StoreFailed) as told:
        remote.with_retries("hf://lab/tiny/f", "fetched", fail, 1)
    assert str(told.value) == (
        "hf://lab/tiny/f: cannot be fetched (OSError: 403 for url 'https://host/f' Forbidden)"
    )

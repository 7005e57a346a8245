"""In a bucket that keeps versions, too, a session that is taken out leaves no byte."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from forks import run_program
from refusals import refused
from s3_server import S3, use
from small_corpus import make_recording, write_corpus

from ndt3_dist import lease, remote, storage, versions
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.verify import verify_corpus

GONE = "t-S-02"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    s3 = S3(tmp_path_factory.mktemp("s3"), versions=True)
    yield s3
    s3.close()


@pytest.fixture
def store(server, monkeypatch):
    """An S3 API to ask by hand; (name of a bucket) -> what it says."""
    import s3fs

    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    use(server)
    yield remote.filesystem("s3://any").call_s3
    server.faults.clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "c"
    write_corpus(out, [make_recording(i, 20, [8]) for i in (1, 2, 3)], shard_mb=0.05)
    storage.write_json(out / "recipe.json", {})
    return out


@pytest.fixture
def corpus(store, local, request):
    """A corpus in a bucket of its own that keeps versions, with a past."""
    bucket = f"b{abs(hash(request.node.name))}"
    store("create_bucket", Bucket=bucket, ObjectLockEnabledForBucket=True)
    there = f"s3://{bucket}/lab/c"
    for name in storage.list_names(local / "shards"):
        put(local / "shards" / name, f"{there}/shards/{name}")
        put(local / "shards" / name, f"{there}/spool/{name}")  # as a preparation leaves them
    put(local / "recipe.json", f"{there}/recipe.json")
    put(local / "manifest.json", f"{there}/manifest.json")
    put(local / "manifest.json", f"{there}/manifest.json")
    storage.remove(f"{there}/spool")
    storage.write_bytes(f"s3://{bucket}/lab/c2/other", GONE.encode())
    storage.write_bytes(f"s3://{bucket}/lab/c2/other", GONE.encode())
    store("create_multipart_upload", Bucket=bucket, Key="lab/c/shards/000009.tar")
    return there


def put(path, to):
    storage.write_bytes(to, path.read_bytes())


def kept(store, corpus) -> list[tuple[str, bytes]]:
    """Key and bytes of every version of every object of a corpus, markers too."""
    bucket, prefix = corpus.removeprefix("s3://").split("/", 1)
    page = store("list_object_versions", Bucket=bucket, Prefix=f"{prefix}/")
    found = [(m["Key"], b"") for m in page.get("DeleteMarkers", [])]
    fs = remote.filesystem(corpus)
    for v in page.get("Versions", []):
        data = fs.cat_file(f"{bucket}/{v['Key']}", version_id=v["VersionId"], start=0)
        found.append((v["Key"], data))
    return found


def windows_of(local) -> list[bytes]:
    """The counts of each window that is to go, as they lie in a tar."""
    whole = Corpus(str(local))
    mine = [n for n in range(len(whole)) if GONE in whole.key(n)]
    return [whole.read(n)["spikes"].tobytes() for n in mine]


@pytest.mark.parametrize("page", [1000, 2])
def test_no_version_of_any_object_has_it(server, store, corpus, local, monkeypatch, page):
    monkeypatch.setattr(versions, "PAGE", page)
    bucket = corpus.split("/")[2]
    before = kept(store, corpus)
    windows = windows_of(local)
    assert len(windows) == 10
    assert sum(any(w in data for w in windows) for _, data in before) > 2

    done = remove_sessions(corpus, [GONE])
    assert done.left == []
    assert done.windows == 10
    after = [(key, data) for key, data in kept(store, corpus) if not key.endswith("job.json")]
    assert sorted(key for key, _ in after) == sorted(f"lab/c/{n}" for n in storage.walk(corpus))
    for key, data in after:
        assert GONE.encode() not in data, key
        assert not any(w in data for w in windows), key
    assert verify_corpus(corpus) == []
    assert "Uploads" not in store("list_multipart_uploads", Bucket=bucket)
    assert len(kept(store, f"s3://{bucket}/lab/c2")) == 2  # somebody else's past


def test_what_a_key_may_not_delete_is_named_and_goes_later(server, store, corpus):
    with pytest.raises(BadInput, match="no session was ever taken out of it"):
        remove_sessions(corpus, [])
    server.fail("?delete", "403", method="POST")  # objects go one by one: versions alone
    done = run_program("data_prep/remove.py", corpus, "--session", GONE, timeout=300)
    refused(done, "the corpus is without them, but there remain old versions of", "(injected)")
    assert verify_corpus(corpus) == []
    assert read_manifest(corpus).sessions[1].id == "removed-000001"
    server.faults.clear()
    assert remove_sessions(corpus, []).left == []
    assert verify_corpus(corpus) == []
    assert GONE.encode() not in b"".join(data for _, data in kept(store, corpus))


def test_versions_that_cannot_be_listed_are_told(server, store, corpus):
    server.fail("?versions", "403")
    server.fail("?uploads", "403")
    left = remove_sessions(corpus, [GONE]).left
    assert len(left) == 2
    assert left[0].startswith(f"old versions below {corpus}, if there are any: they cannot be")
    assert left[1].startswith(f"unfinished uploads below {corpus}")
    server.faults.clear()
    with pytest.raises(BadInput, match="no session"):  # asked for again, it goes all the same
        remove_sessions(corpus, [GONE])
    assert GONE.encode() not in b"".join(data for _, data in kept(store, corpus))


def test_a_lock_is_told_and_brings_nothing_back_to_light(server, store, corpus):
    bucket = corpus.split("/")[2]
    spooled = "lab/c/spool/000000.tar"
    page = store("list_object_versions", Bucket=bucket, Prefix=spooled)
    until = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)}
    what = {"Bucket": bucket, "Key": spooled, "VersionId": page["Versions"][0]["VersionId"]}
    store("put_object_retention", **what, Retention=until)
    begun = time.monotonic()
    left = remove_sessions(corpus, [GONE]).left
    assert time.monotonic() - begun < 30
    said = f"old versions of 1 objects below {corpus}, such as {spooled} (AccessDenied: "
    assert [line.startswith(said) for line in left] == [True]
    assert not storage.exists(f"s3://{bucket}/{spooled}")
    assert [key for key, _ in kept(store, corpus) if "spool" in key] == [spooled, spooled]
    assert verify_corpus(corpus) == []


def test_versions_that_are_not_deleted_at_once_are_asked_for_again(server, store, corpus):
    server.fail("?delete", "200", 1, "POST")
    assert remove_sessions(corpus, [GONE]).left == []
    assert GONE.encode() not in b"".join(data for _, data in kept(store, corpus))


def test_a_bucket_without_versions_is_as_before(store, local):
    store("create_bucket", Bucket="plain")
    for name in storage.list_names(local / "shards"):
        put(local / "shards" / name, f"s3://plain/c/shards/{name}")
    put(local / "manifest.json", "s3://plain/c/manifest.json")
    assert remove_sessions("s3://plain/c", [GONE]).left == []
    assert verify_corpus("s3://plain/c") == []
    assert GONE.encode() not in b"".join(data for _, data in kept(store, "s3://plain/c"))

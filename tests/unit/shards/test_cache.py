"""A corpus on S3: fetched once, waited for through faults, never taken with other bytes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from s3_server import S3, use
from streams import digest, make_streams, walk

from ndt3_dist.errors import ManifestMismatch, ShardLost
from ndt3_dist.shards import corpus as read
from ndt3_dist.shards.cache import Cache
from ndt3_dist.shards.corpus import Corpus

SHARD = "000000.tar"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("s3")
    before = dict(os.environ)
    s3 = S3(root)
    use(s3)
    yield s3, root
    s3.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def bucket(server, corpus, tmp_path, monkeypatch):
    """(server, its folder, URL) of a bucket with the corpus; its files go to tmp_path/cache."""
    s3, root = server
    shutil.rmtree(root / "bucket", ignore_errors=True)
    shutil.copytree(corpus, root / "bucket" / "c")
    s3.faults.clear()
    s3.gets.clear()
    cache = Cache(tmp_path / "cache", 10**9, attempts=3, timeout_s=0.5, first_wait_s=0.05)
    monkeypatch.setattr(read, "default_cache", lambda: cache)
    return s3, root / "bucket" / "c", "s3://bucket/c"


def tars(s3) -> list[int]:
    return [size for path, size in s3.gets if path.endswith(".tar")]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_remote_corpus_gives_the_stream_of_a_local_one(bucket, corpus, tiny_model, workers):
    s3, folder, url = bucket
    local = walk(make_streams(corpus, tiny_model))
    assert digest(walk(make_streams(url, tiny_model, 2, workers=workers))) == digest(local)
    held = [f.stat().st_size for f in (folder / "shards").glob("00000[01].tar")]
    assert sorted(tars(s3)) == sorted(held)  # both ranks, all epochs: each shard once


@pytest.mark.parametrize(("kind", "times"), [("503", 4), ("slow", 1), ("cut", 2), ("flip", 1)])
def test_transient_faults_are_waited_out(bucket, corpus, tiny_model, kind, times):
    s3, _, url = bucket
    s3.fail(SHARD, kind, times)
    read.default_cache().attempts = 8  # half a second each, less on a busy machine
    streams = make_streams(url, tiny_model)
    local = digest(walk(make_streams(corpus, tiny_model)))
    assert digest(walk(streams)) == local
    assert not streams[0].ledger.entries
    assert s3.faults[0][3] == 0  # it did happen


def test_the_manifest_is_waited_for_too(bucket):
    s3, _, url = bucket
    s3.fail("manifest.json", "503", 6)  # s3fs itself asks five times
    assert len(Corpus(url))
    assert s3.faults[0][3] == 0


def test_a_manifest_that_may_not_be_read_says_so_at_once(bucket):
    s3, _, url = bucket
    s3.fail("manifest.json", "403")
    began = time.time()
    with pytest.raises(ManifestMismatch, match=r"c/manifest\.json: may not be read"):
        Corpus(url)
    assert time.time() - began < 5
    s3.faults.clear()
    with pytest.raises(ManifestMismatch, match=r"no manifest\.json, so no corpus"):
        Corpus("s3://bucket/none")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "missing"),
        ("403", "may not be read"),
        ("503", "cannot be read after 3 tries"),
        ("slow", "cannot be read after 3 tries"),
        ("flip", "its sha256 is not the manifest's"),
        ("cut", r"\d+ bytes, the manifest has \d+"),
        ("longer", r"more bytes, the manifest has \d+"),
    ],
)
def test_what_stays_away_is_replaced_alike_everywhere(
    bucket, corpus, tiny_model, tmp_path, how, said
):
    s3, folder, url = bucket
    shard = folder / "shards" / SHARD
    data = shard.read_bytes()
    if how in ("403", "503", "slow"):
        s3.fail(SHARD, how)
    elif how == "missing":
        shard.unlink()
    else:
        flipped = data[:700] + bytes([data[700] ^ 4]) + data[701:]
        shard.write_bytes({"flip": flipped, "cut": data[:9000], "longer": data + b"x"}[how])
    streams = make_streams(url, tiny_model, 2)
    found = walk(streams)
    (entry,) = streams[0].ledger.entries
    assert (entry.shard, entry.window) == ("000000", "")
    assert re.search(said, entry.reason), entry.reason
    shutil.copytree(corpus, tmp_path / "local")
    (tmp_path / "local" / "shards" / SHARD).unlink()
    assert digest(found) == digest(walk(make_streams(tmp_path / "local", tiny_model)))


def test_processes_of_a_host_fetch_a_shard_once(bucket):
    s3, _, url = bucket
    corpora = [Corpus(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:  # a lock of a file knows no difference
        paths = set(pool.map(lambda c: c.fetch(0), corpora))
    assert len(paths) == len(tars(s3)) == 1


def test_the_least_recently_used_make_room(bucket):
    _, _, url = bucket
    corpus = Corpus(url)
    sizes = [s.bytes for s in corpus.shards]
    corpus.cache.limit = max(sizes) + 1000
    first = corpus.fetch(0)
    assert os.path.exists(first)
    corpus.read(0)
    corpus.fetch(1)
    assert not os.path.exists(first)
    corpus.read(1)  # from the file that is still open
    assert np.array_equal(Corpus(url).read(0)["spikes"], corpus.read(0)["spikes"])


def test_a_disk_that_goes_bad_is_not_taken_for_the_corpus(bucket):
    _, _, url = bucket
    corpus = Corpus(url)
    intact = corpus.read(0)["spikes"].copy()
    path = corpus.fetch(0)
    with open(path, "r+b") as f:
        f.seek(int(corpus.record(0)["spikes"]["offset"]) + 200)
        f.write(b"\xff")
    assert np.array_equal(corpus.read(0)["spikes"], intact)
    assert np.array_equal(Corpus(url).read(0)["spikes"], intact)


def test_a_killed_download_leaves_nothing_to_be_taken_for_a_shard(bucket, tmp_path):
    s3, _, url = bucket
    s3.fail(SHARD, "slow", 1)
    program = (
        "from pathlib import Path; from ndt3_dist.shards.cache import Cache;"
        "from ndt3_dist.shards.corpus import Corpus;"
        f"Corpus({url!r}, cache=Cache(Path({str(tmp_path / 'cache')!r}), 10**9)).fetch(0)"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    while not list((tmp_path / "cache").glob(".*tmp")):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    corpus = Corpus(url)
    assert not (tmp_path / "cache" / corpus.shards[0].sha256).exists()
    assert corpus.read(0)["spikes"].any()


def test_a_shard_that_is_lost_is_named(bucket):
    _, folder, url = bucket
    (folder / "shards" / SHARD).unlink()
    with pytest.raises(ShardLost, match=rf"s3://bucket/c/shards/{SHARD}: missing; restore it"):
        Corpus(url).fetch(0)


def test_a_cached_index_or_length_that_goes_bad_is_fetched_again(bucket):
    _, _, url = bucket
    corpus = Corpus(url)
    intact = corpus.read(0)["spikes"].copy()
    index = corpus.cache.folder / corpus.shards[0].index_sha256
    index.write_bytes(index.read_bytes()[:-7])
    with open(corpus.fetch(0), "ab") as f:
        f.write(b"x")
    assert np.array_equal(Corpus(url).read(0)["spikes"], intact)


def test_a_lost_shard_is_waited_for_once(bucket):
    s3, _, url = bucket
    s3.fail(SHARD, "403")
    corpus = Corpus(url)
    for _ in range(5):
        with pytest.raises(ShardLost, match="may not be read"):
            corpus.read(0)
    assert s3.faults[0][3] == 10**6 - 1

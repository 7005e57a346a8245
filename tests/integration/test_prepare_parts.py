"""A preparation whose shards go to a store in parts, through all that a store does."""

from pathlib import Path

import numpy as np
import pytest
from s3_server import S3, use

from ndt3_dist import remote, storage
from ndt3_dist.errors import StoreFailed
from ndt3_dist.prep import job
from ndt3_dist.prep.recipe import load_recipe
from ndt3_dist.shards.verify import verify_corpus

NWB_YAML = Path(__file__).resolve().parents[2] / "data_prep" / "recipes" / "nwb.yaml"
CHANNELS, SECONDS = 320, 720
"""36 windows of .3 MB: a spool and a shard of 12 MB, in three parts of 5 MB, the smallest."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, write_nwb) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    draw = np.random.default_rng(0)
    units = [np.sort(draw.uniform(0, SECONDS, SECONDS)) for _ in range(CHANNELS)]
    write_nwb(folder / "a.nwb", units, electrodes=list(range(CHANNELS)), groups=("M1",) * CHANNELS)
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "s3" / "out").mkdir(parents=True)
    s3 = S3(tmp_path / "s3")
    for name, value in {**s3.environment, "AWS_MAX_ATTEMPTS": "2"}.items():
        monkeypatch.setenv(name, value)
    use(s3)
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    yield s3
    s3.close()


def prepare(recordings, out):
    keys = ["dataset=t", "covariates.path=''", "window_ms=20000"]
    return job.prepare(load_recipe(NWB_YAML, [*keys, f"source={recordings}", f"out={out}"]))


def files_below(folder: Path) -> dict[str, bytes]:
    found = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_it_ends_with_the_bytes_of_a_disk(server, recordings, tmp_path, without_ray):
    local = prepare(recordings, tmp_path / "local")
    assert [s.bytes > 10 << 20 for s in local.shards] == [True]
    server.fail(".tar?uploadId=", "200", 1, "POST")  # the spool's
    server.fail("000000.tar?partNumber=2", "reset", 1, "PUT")
    server.fail("000000.tar?uploadId=", "500", 1, "POST")
    server.fail("000000.tar?uploadId=", "lost", 1, "POST")
    server.fail("shard-000000.json", "storm", 1, "PUT")
    server.fail(".tar", "cut", 2)
    assert prepare(recordings, "s3://out/corpus") == local
    assert [fault[3] for fault in server.faults] == [0] * len(server.faults)
    assert files_below(tmp_path / "s3" / "out" / "corpus") == files_below(tmp_path / "local")
    assert remote.filesystem("s3://out").list_multipart_uploads("out") == []
    assert verify_corpus("s3://out/corpus") == []


def test_it_ends_in_one_error_and_goes_on_when_the_store_is_back(
    server, recordings, tmp_path, without_ray, monkeypatch
):
    import s3fs

    local = prepare(recordings, tmp_path / "local")
    server.fail("000000.tar?uploadId=", "503", method="POST")
    with monkeypatch.context() as patch:
        patch.setattr(remote, "ATTEMPTS", 2)
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        with pytest.raises(StoreFailed, match=r"000000\.tar: cannot be written after 2 tries \("):
            prepare(recordings, "s3://out/corpus")
    server.faults.clear()
    assert remote.filesystem("s3://out").list_multipart_uploads("out") == []
    assert {n.split("/")[0] for n in storage.walk("s3://out/corpus")} == {"recipe.json", "spool"}
    server.asked.clear()
    assert prepare(recordings, "s3://out/corpus") == local
    spooled = [path for method, path in server.asked if method == "POST" and "/spool/" in path]
    assert not [path for path in spooled if ".tar" in path]  # what was done is not done again
    assert files_below(tmp_path / "s3" / "out" / "corpus") == files_below(tmp_path / "local")

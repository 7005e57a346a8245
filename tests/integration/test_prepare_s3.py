"""From recordings in a real S3 server to a corpus in it, through its faults."""

import os
from pathlib import Path

import pytest
from nwb_files import write_twin
from s3_server import S3, use

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.prep import job
from ndt3_dist.prep.recipe import Recipe, load_recipe
from ndt3_dist.prep.recordings import find_recordings
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.readers.on_disk import sha256_of
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.verify import verify_corpus

NWB_YAML = Path(__file__).resolve().parents[2] / "data_prep" / "recipes" / "nwb.yaml"
SETTINGS = ["dataset=t", "covariates.path=processing/behavior/Velocity/cursor_vel", "shard_mb=0.02"]


LOOSE = ["covariates.path=''", "window_ms=40"]


@pytest.fixture
def server(tmp_path, monkeypatch, write_session):
    root = tmp_path / "s3"
    for number, name in enumerate("abc"):
        folder = root / "lab" / "raw" / f"sub-{'AAB'[number]}"
        write_session(folder / f"{name}.nwb", seed=number, subject="AAB"[number])
    (root / "lab" / "raw" / "notes.txt").write_text("no recording")
    (root / "out").mkdir()
    s3 = S3(root)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    use(s3)
    yield s3
    s3.close()


def files_below(folder: Path) -> dict[str, bytes]:
    found = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_a_corpus_in_a_store_is_that_of_a_disk_whatever_the_store_does(
    server, tmp_path, without_ray, write_nwb, capsys
):
    def prepare(source, out, *more):
        keys = [*SETTINGS, f"source={source}", f"out={out}", *more]
        return job.prepare(load_recipe(NWB_YAML, keys))

    local = prepare(tmp_path / "s3" / "lab" / "raw", tmp_path / "local")
    server.fail("b.nwb", "503", 2)
    server.fail("c.nwb", "cut", 1)
    server.fail("000001.tar", "503", 1, "PUT")
    server.fail("manifest.json", "reset", 1, "PUT")
    remote = prepare("s3://lab/raw", "s3://out/corpus")
    assert remote == local
    assert all(fault[3] == 0 for fault in server.faults)
    assert files_below(tmp_path / "s3" / "out" / "corpus") == files_below(tmp_path / "local")
    assert verify_corpus("s3://out/corpus") == []
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("ndt3_dist_*/*.nwb"))
    assert prepare("s3://lab/raw", "s3://out/corpus") == remote
    assert "complete already" in capsys.readouterr().out

    done = remove_sessions("s3://out/corpus", ["t-A-b"])
    assert done.windows == 6
    assert done.left == []  # nor does a store that knows of no versions say that it keeps any
    assert verify_corpus("s3://out/corpus") == []
    left = b"".join(files_below(tmp_path / "s3" / "out").values())
    assert b"t-A-b" not in left

    # A subject that only the folder names, and what is wrong with a file: as on a disk.
    write_nwb(
        tmp_path / "s3" / "lab" / "more" / "monkA" / "day.nwb",
        [[0.1, 0.5, 0.9]],
        observed=(0.0, 1.0),
        subject="",
    )
    write_nwb(tmp_path / "s3" / "lab" / "more" / "monkA" / "bad.nwb", [])
    near = prepare(tmp_path / "s3" / "lab" / "more", tmp_path / "near", *LOOSE)
    far = prepare("s3://lab/more", "s3://out/far", *LOOSE)
    assert far == near
    assert [s.subject for s in far.sessions] == ["monkA"]
    assert "ndt3_dist_" not in far.failed[0].error

    one = prepare("s3://lab/raw/sub-B/c.nwb", "s3://out/one")
    assert [s.source for s in one.sessions] == ["c.nwb"]
    assert storage.list_names("s3://out/one") == ["manifest.json", "recipe.json", "shards"]
    assert read_manifest("s3://out/one") == one

    # A recording that is a folder of objects: fetched whole, and of the same bytes as its twin.
    twin = write_twin(tmp_path / "s3" / "lab" / "raw" / "sub-B" / "c.nwb")
    (tmp_path / "s3" / "lab" / "folders").mkdir()
    twin = twin.rename(tmp_path / "s3" / "lab" / "folders" / twin.name)
    server.fail("units/spike_times/0", "503", 1)
    far = prepare("s3://lab/folders", "s3://out/folder")
    assert server.faults[-1][3] == 0
    assert (far.sessions[0].source, far.sessions[0].source_sha256) == (twin.name, sha256_of(twin))
    (whole,) = find_recordings(Recipe(dataset="t", source=f"s3://lab/folders/{twin.name}/"))
    assert (whole.name, whole.bytes) == (twin.name, far.sessions[0].source_bytes)
    shards = tmp_path / "s3" / "out"
    assert files_below(shards / "folder" / "shards") == files_below(shards / "one" / "shards")
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("ndt3_dist_*/*.zarr"))

    with pytest.raises(BadInput, match="s3://lab/nothing: no such file or folder"):
        prepare("s3://lab/nothing", "s3://out/two")

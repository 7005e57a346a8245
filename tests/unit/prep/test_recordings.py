"""Which recordings a recipe takes, and what they are called."""

import json
import re
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nwb_files import write_twin

from ndt3_dist import remote, storage
from ndt3_dist.errors import BadInput, ManifestMismatch, StoreFailed
from ndt3_dist.prep import job
from ndt3_dist.prep.download import fetched, own_folder
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import RecordingFile, find_recordings, matches
from ndt3_dist.readers.options import CovariatesRecipe


def test_a_source_is_named_by_its_path_below_the_folder(tmp_path):
    for name in ("sub-B/b.nwb", "sub-A/a.nwb", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    found = find_recordings(Recipe(dataset="t", source=str(tmp_path)))
    assert [(s.name, s.bytes) for s in found] == [("sub-A/a.nwb", 5), ("sub-B/b.nwb", 5)]
    (alone,) = find_recordings(Recipe(dataset="t", source=str(tmp_path / "sub-A" / "a.nwb")))
    assert alone.name == "a.nwb"
    with fetched(alone) as (path, sha256):
        assert path == tmp_path / "sub-A" / "a.nwb"
        assert sha256.startswith("5994471abb01112a")


def test_a_folder_that_is_a_recording_is_found_as_one_and_not_walked(tmp_path):
    for name in ("b.nwb", "b.nwb.zarr/0", "sub-A/a.nwb.zarr/units/0.nwb", "c.zarr/0", "d.nwb.zarr"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "sub-A" / "a.nwb.zarr" / ".zgroup").write_bytes(b"{}")

    def found(**keys):
        recipe = Recipe(**{"dataset": "t", "source": str(tmp_path), **keys})
        return [(s.name, s.bytes) for s in find_recordings(recipe)]

    a = ("sub-A/a.nwb.zarr", 7)
    assert found() == [("b.nwb", 5), a]  # b.nwb.zarr is b.nwb once more
    assert found(pattern="**/*.nwb.zarr") == [("b.nwb.zarr", 5), ("d.nwb.zarr", 5), a]
    assert found(pattern="*.zarr") == [("b.nwb.zarr", 5), ("c.zarr", 5), ("d.nwb.zarr", 5)]
    assert found(source=str(tmp_path / a[0])) == [("a.nwb.zarr", 7)]
    (tmp_path / "sub-A" / "a.nwb.zarr" / "link").symlink_to("/etc/passwd")
    assert found()[1] == (a[0], 0)  # it fails by name, when it is read


def test_a_folder_and_its_hdf5_twin_make_the_same_corpus(tmp_path, write_session, without_ray):
    corpora = []
    for number, name in enumerate(("sub-A_ses-1", "sub-B_ses-2")):
        path = write_session(tmp_path / "hdf5" / f"{name}.nwb", number, subject="", session=None)
        twin = write_twin(path)
        twin.rename(tmp_path / twin.name)
        (tmp_path / "zarr").mkdir(exist_ok=True)
        (tmp_path / twin.name).rename(tmp_path / "zarr" / twin.name)
    for kind in ("hdf5", "zarr"):
        covariates = CovariatesRecipe(path="processing/behavior/Velocity/cursor_vel")
        keys = {"source": str(tmp_path / kind), "out": str(tmp_path / f"{kind}_corpus")}
        recipe = Recipe(dataset="t", covariates=covariates, shard_mb=0.02, **keys)
        corpora.append((job.prepare(recipe), tmp_path / f"{kind}_corpus" / "shards"))
        assert job.prepare(recipe) == corpora[-1][0]  # complete already
    (near, near_shards), (far, far_shards) = corpora
    assert [s.source for s in far.sessions] == ["sub-A_ses-1.nwb.zarr", "sub-B_ses-2.nwb.zarr"]
    of_source = {"source": "", "source_sha256": "", "source_bytes": 0}
    assert [s.model_copy(update=of_source) for s in far.sessions] == [
        s.model_copy(update=of_source) for s in near.sessions
    ]
    names = sorted(p.name for p in near_shards.iterdir())
    assert len(names) > 2
    assert names == sorted(p.name for p in far_shards.iterdir())
    for name in names:
        assert (near_shards / name).read_bytes() == (far_shards / name).read_bytes()

    chunk = tmp_path / "zarr" / "sub-A_ses-1.nwb.zarr" / "units" / "id" / "0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    with pytest.raises(ManifestMismatch, match=r"sub-A_ses-1\.nwb\.zarr changed since"):
        job.prepare(Recipe(dataset="t", covariates=covariates, shard_mb=0.02, **keys))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//x", "./x"])
def test_a_folder_of_a_store_with_a_name_that_leads_out_of_it_is_refused(
    tmp_path, monkeypatch, name
):
    monkeypatch.setattr(storage, "walk", lambda url: {".zgroup": 2, name: 5})
    monkeypatch.setattr(storage, "chunks", lambda url: iter([b"12345"]))
    source = RecordingFile("s3://lab/a.nwb.zarr", "a.nwb.zarr", 7)
    with pytest.raises(BadInput, match="which leads out of it; refused"), fetched(source):
        pass


def test_a_link_of_git_annex_without_its_content_is_called_so(tmp_path):
    path = tmp_path / "a.nwb"
    path.symlink_to("../.git/annex/objects/x1/y2/SHA256E-s9--ab.nwb/SHA256E-s9--ab.nwb")
    said = r"a\.nwb: its content is not here; run git annex get"
    with pytest.raises(BadInput, match=said), fetched(RecordingFile(str(path), "a.nwb", 0)):
        pass


def test_a_source_without_a_recording_is_refused(tmp_path):
    for source, said in (
        ("", r"\(empty\)"),
        (str(tmp_path / "no"), "no such file"),
    ):
        with pytest.raises(BadInput, match=said):
            find_recordings(Recipe(dataset="t", source=source))
    with pytest.raises(BadInput, match="no file matches"):
        find_recordings(Recipe(dataset="t", source=str(tmp_path)))


@pytest.mark.parametrize(
    "pattern", ["**/*.nwb", "*.nwb", "sub-*/*.nwb", "sub-*/**/*.nwb", "**/ses-1/*", "sub-A/a.nwb"]
)
def test_a_pattern_means_in_a_store_what_it_means_on_a_disk(tmp_path, pattern):
    for name in ("c.nwb", "sub-A/a.nwb", "sub-A/ses-1/b.nwb", "x/sub-A/ses-1/d.nwb", "sub-A/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    expected = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file()}
    assert {name for name in files if matches(name, pattern)} == expected


class Web(SimpleHTTPRequestHandler):
    """A folder on the web, as a bucket shows it: parts of files on request."""

    parts = True

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked and "/expired/" in self.path:
            return self.send_error(403)
        if not (self.parts and asked and path.is_file()):
            return super().do_GET()
        data, first = path.read_bytes(), int(asked[1])
        last = min(int(asked[2] or len(data)), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder and its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    monkeypatch.setattr(Web, "parts", True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asset(name: str, path: Path, url: str, **changes) -> dict:
    """What DANDI's list says of a recording."""
    return {
        "path": name,
        "contentSize": path.stat().st_size,
        "contentUrl": ["https://api.invalid/assets/1/download/", url],
        "digest": {"dandi:sha2-256": storage.sha256_file(path), "dandi:dandi-etag": "x-1"},
        "encodingFormat": "application/x-nwb",
        **changes,
    }


def test_the_list_of_a_dandiset_is_a_source_whose_recordings_lie_in_its_bucket(
    web, tmp_path, write_session, without_ray, monkeypatch
):
    monkeypatch.setattr(storage, "READ_BYTES", 100_000)  # several parts each
    (folder, url), assets = web, []
    for number, name in enumerate(("sub-A/sub-A_ses-1.nwb", "sub-B/sub-B_ses-2.nwb")):
        held = write_session(tmp_path / "disk" / name, seed=number, subject="", session=None)
        blob = folder / "blobs" / "0a1" / f"0a1b-{number}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(held.read_bytes())
        assets.append(asset(name, held, f"{url}/blobs/0a1/{blob.name}"))
    (folder / "photo").write_bytes(b"no recording")
    assets.append(asset("sub-A/photo.jpg", folder / "photo", f"{url}/blobs/photo"))
    (folder / "assets.jsonld").write_text(json.dumps(assets))

    def prepare(source, out):
        covariates = CovariatesRecipe(path="processing/behavior/Velocity/cursor_vel")
        keys = {"source": str(source), "out": str(tmp_path / out), "covariates": covariates}
        return job.prepare(Recipe(dataset="t", **keys))

    listed = prepare(f"{url}/assets.jsonld", "listed")
    assert [s.id for s in listed.sessions] == ["t-A-1", "t-B-2"]
    assert listed == prepare(tmp_path / "disk", "near")

    wrong = asset(assets[0]["path"], folder / "photo", assets[0]["contentUrl"][1])
    (folder / "assets.jsonld").write_text(json.dumps([wrong, assets[1]]))
    failed = prepare(f"{url}/assets.jsonld", "wrong").failed
    assert [f.source for f in failed] == ["sub-A/sub-A_ses-1.nwb"]
    assert "the list of assets says" in failed[0].error

    # A recording of the corpus that the list has another hash of now.
    (folder / "assets.jsonld").write_text(json.dumps([wrong, assets[1]]))
    with pytest.raises(ManifestMismatch, match=r"sub-A_ses-1\.nwb changed since"):
        prepare(f"{url}/assets.jsonld", "listed")
    (alone,) = find_recordings(Recipe(dataset="t", source=f"{url}/blobs/0a1/0a1b-0?X-Signature=s"))
    assert (alone.name, alone.bytes) == ("0a1b-0", storage.size(f"{url}/blobs/0a1/0a1b-0"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "not a list"),
        ("[", "not valid JSON"),
        ('["x"]', "asset 0 lacks path"),
        ('[{"path": "a.nwb", "contentSize": 1}]', "asset 0 lacks path, contentSize or contentUrl"),
        ('[{"path": "a.nwb", "contentSize": 1, "contentUrl": []}]', "asset 0 lacks"),
        ('[{"path": "a.nwb", "contentSize": 1, "contentUrl": ["/etc/passwd"]}]', "refused"),
        (
            '[{"path": "../a.nwb", "contentSize": 1, "contentUrl": ["https://x/blobs/1"]}]',
            "refused",
        ),
        ('[{"path": "a.nwb", "contentSize": 1, "contentUrl": ["file:///blobs/1"]}]', "refused"),
        ('[{"path": "a.nwb", "contentSize": 1, "contentUrl": ["http://10.0.0.1/1"]}]', "refused"),
        (
            '[{"path": "a.nwb", "contentSize": 1, "contentUrl": ["s3://b/1"]}, '
            '{"path": "a.nwb", "contentSize": 1, "contentUrl": ["s3://b/2"]}]',
            "asset 1 has the path of another one",
        ),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "assets.jsonld").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        find_recordings(Recipe(dataset="t", source=str(tmp_path / "assets.jsonld")))
    assert "assets.jsonld" in str(caught.value)


def test_a_folder_in_a_list_is_refused_where_the_pattern_asks_for_it(tmp_path):
    folder = {"path": "a.nwb.zarr", "contentSize": 1, "contentUrl": ["https://x/zarr/2/"]}
    file = {"path": "b.nwb", "contentSize": 1, "contentUrl": ["https://x/blobs/1"]}
    (tmp_path / "assets.jsonld").write_text(json.dumps([folder, file]))
    keys = {"dataset": "t", "source": str(tmp_path / "assets.jsonld")}
    assert [s.name for s in find_recordings(Recipe(**keys))] == ["b.nwb"]
    with pytest.raises(BadInput, match=r"a\.nwb\.zarr is a folder, which no list leads to"):
        find_recordings(Recipe(**keys, pattern="**/*.nwb.zarr"))


def test_a_server_that_sends_no_parts_is_named_and_no_wrong_bytes_are_taken(web, monkeypatch):
    folder, url = web
    monkeypatch.setattr(Web, "parts", False)
    monkeypatch.setattr(storage, "READ_BYTES", 1000)
    (folder / "a.nwb").write_bytes(bytes(2500))
    with pytest.raises(StoreFailed, match="does the server send parts"):
        storage.sha256_file(f"{url}/a.nwb")


def test_the_folder_of_a_killed_process_goes_with_the_next_and_one_in_use_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ndt3_dist_mine").mkdir()
    program = (
        "import os, signal, sys, tempfile\n"
        "from ndt3_dist.prep.download import own_folder\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with own_folder() as folder:\n"
        "    (folder / 'patient.nwb').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    (abandoned,) = tmp_path.glob("ndt3_dist_recording_*")
    assert (abandoned / "patient.nwb").exists()
    with own_folder() as first, own_folder() as second:
        assert not abandoned.exists()
        assert first.is_dir()
        assert second.is_dir()
        assert first != second
    assert [p.name for p in tmp_path.iterdir()] == ["ndt3_dist_mine"]


def test_neither_a_signature_nor_a_name_is_told_of_a_url(
    web, tmp_path, without_ray, monkeypatch, capsys
):
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    folder, url = web
    (folder / "expired" / "MaryJones").mkdir(parents=True)
    (folder / "expired" / "MaryJones" / "rec1.nwb").write_bytes(b"x" * 2000)
    (tmp_path / "key").write_text("a key of some length")
    privacy = {"pseudonyms": True, "key_file": str(tmp_path / "key")}
    signed = f"{url}/expired/MaryJones/rec1.nwb?X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=5ec2e7"
    keys = {"source": signed, "out": str(tmp_path / "c"), "privacy": privacy}
    with pytest.raises(BadInput, match=r"the first: fil\w+\.nwb: cannot be read") as e:
        job.prepare(Recipe(dataset="t", **keys))
    said = capsys.readouterr()
    for text in (str(e.value), said.out, said.err):
        for secret in ("5ec2e7", "AKIA", "MaryJones"):
            assert secret not in text

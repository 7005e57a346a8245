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

from ndt3_dist import remote, storage
from ndt3_dist.errors import BadInput, ManifestMismatch, StoreFailed
from ndt3_dist.prep import job
from ndt3_dist.prep.download import fetched, own_folder
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import find_recordings, matches
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

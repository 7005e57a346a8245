"""Repositories of a hub: who may read them, what the library heeds, and exports that go there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, make_export

from ndt3_dist.checkpoint.hub import Hub
from ndt3_dist.checkpoint.local_export import local_export
from ndt3_dist.errors import BadInput, CheckpointCorrupt, StoreFailed
from ndt3_dist.programs.push import push

LOOK = """
import sys
from ndt3_dist.checkpoint.hub import Hub
hub = Hub("hf://lab/tiny")
hub.look(("config.json",))
sys.stdout.buffer.write(b"".join(hub.pieces("config.json")))
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_XET and constants.HF_HUB_DISABLE_PROGRESS_BARS
"""


def look(folder: Path, **environment: str):
    """Fetch config.json in a fresh process, as the library reads some settings but once."""
    fresh = {k: v for k, v in os.environ.items() if k == "HF_ENDPOINT" or not k.startswith("HF_")}
    environment = {**fresh, "HF_HOME": str(folder), **environment}
    command = [sys.executable, "-c", LOOK]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_stored_token_is_used_and_nothing_else_is_asked_or_told(hub, tmp_path):
    hub.private.add("lab/tiny")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(f"{TOKEN}\n")
    done = look(tmp_path / "home")
    assert done.stdout == (tmp_path / "tiny" / "config.json").read_text(), done.stderr
    assert done.stderr == ""
    assert [host for host, *_ in hub.asked] == ["hub", "hub", "files"]
    assert {said for host, _, said, _ in hub.asked if host == "hub"} == {f"Bearer {TOKEN}"}
    assert all("torch" not in agent for agent in hub.agents)
    assert os.listdir(tmp_path / "home") == ["token"]


def test_who_is_to_stay_offline_does(hub, tmp_path):
    done = look(tmp_path, HF_HUB_OFFLINE="1")
    assert "StoreFailed: hf://lab/tiny: HF_HUB_OFFLINE is set" in done.stderr
    assert hub.asked == []


def test_offline_the_newest_copy_is_taken(hub, monkeypatch, capsys):
    folder = local_export("hf://lab/tiny")
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_export("hf://lab/tiny") == folder
    assert "its newest copy is taken" in capsys.readouterr().err
    assert hub.asked == []


def test_a_gated_model_says_where_to_ask(hub, monkeypatch):
    hub.gated.add("lab/tiny")
    with pytest.raises(PermissionError, match=f"gated; ask for access at {hub.url}/lab/tiny"):
        local_export("hf://lab/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert local_export("hf://lab/tiny")


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadInput, match=r"pip install 'ndt3_dist\[hub\]'"):
        local_export("hf://lab/tiny")


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b'{"id": "a", "sha": "b", "siblings": [{}]}']
)
def test_a_server_that_is_no_hub_is_said_so(hub, monkeypatch, answer):
    hub.tells = answer
    with pytest.raises(BadInput, match=f"{hub.url} does not answer as a hub does"):
        local_export("hf://lab/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.org")
    with pytest.raises(BadInput, match="HF_ENDPOINT: expected the address of a hub"):
        local_export("hf://lab/tiny")


def test_bytes_are_counted(hub, tmp_path, monkeypatch):
    source = Hub("hf://lab/tiny")
    source.look(("config.json",))
    source.sizes["config.json"] += 1
    with pytest.raises(StoreFailed, match=r"cannot be fetched \(OSError: \d+ bytes, \d+ were"):
        list(source.pieces("config.json"))


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_an_export_is_pushed_in_one_commit_and_never_over_another(
    hub, tmp_path, monkeypatch, tiny_model
):
    export = make_export(tmp_path / "e", tiny_model, 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    hub.models["lab/new@main"] = tmp_path / "empty"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    size = push(export, "hf://lab/new")
    files = ["README.md", "config.json", "model.safetensors", "normalisation.json"]
    assert [(name, sorted(paths)) for name, paths in hub.commits] == [("lab/new@main", files)]
    assert size == sum((export / name).stat().st_size for name in files)
    there = hub.models["lab/new@main"]
    assert sorted(p.name for p in there.iterdir()) == sorted([".gitattributes", *files])
    assert all((there / name).read_bytes() == (export / name).read_bytes() for name in files)
    assert {said for host, _, said, _ in hub.asked if host == "files"} == {None}
    for to in ("hf://lab/new", "hf://lab/tiny"):
        with pytest.raises(BadInput, match=f"{to}: holds an export"):
            push(export, to)
    with pytest.raises(FileNotFoundError, match="no such model"):
        push(export, "hf://lab/none")
    (export / "model.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"lacks model\.safetensors"):
        push(export, "hf://lab/other")
    assert len(hub.commits) == 1


def test_who_pushes_after_somebody_else_changes_nothing(hub, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    hub.models["lab/new@main"] = tmp_path / "empty"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = Hub("hf://lab/new")
    source.look(())
    hub.models["lab/new@main"] = tmp_path / "tiny"
    with pytest.raises(StoreFailed, match=r"cannot be pushed to .*412"):
        source.push([tmp_path / "tiny" / "config.json"])
    assert hub.commits == []
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="HF_TOKEN"):
        source.push([tmp_path / "tiny" / "config.json"])

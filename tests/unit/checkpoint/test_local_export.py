"""Exports by their addresses: a hub's and any web server's."""

import importlib
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from hub_server import TOKEN, make_export
from safetensors.torch import save_file

import ndt3_dist
from ndt3_dist import log
from ndt3_dist.checkpoint import hub as hub_files
from ndt3_dist.checkpoint.local_export import RECORD, local_export
from ndt3_dist.errors import BadInput, CheckpointCorrupt, ResumeMismatch, StoreFailed
from ndt3_dist.train import start
from ndt3_dist.train.initial import InitialExport


def same(one, other) -> bool:
    ours, theirs = (dict(ndt3_dist.load_model(f).named_parameters()) for f in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folder_is_itself(tmp_path):
    assert local_export(tmp_path) == tmp_path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["hub", "web"])
def test_an_export_is_fetched_once_and_nothing_else_with_it(hub, tmp_path, kind):
    name = "hf://lab/tiny" if kind == "hub" else f"{hub.url}/web/lab/tiny/"
    folder = local_export(name)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["config.json", "model.safetensors", "normalisation.json", "README.md", RECORD]
    )
    assert same(folder, tmp_path / "tiny")
    assert folder.is_relative_to(tmp_path / "cache")
    weights = [path for _, path, *_ in hub.asked if path.endswith(("model.safetensors", ".bin"))]
    assert not any(path.endswith(".bin") for path in weights)
    assert local_export(name) == folder
    if kind == "hub":
        assert sorted(hub.fetched()) == sorted(set(hub.fetched()))
        assert len(hub.fetched()) == 4


@pytest.mark.parametrize("kind", ["hub", "web"])
def test_what_changes_at_the_address_is_fetched_anew_beside_the_old(
    hub, tmp_path, tiny_model, kind
):
    name = "hf://lab/tiny" if kind == "hub" else f"{hub.url}/web/lab/tiny"
    old = local_export(name)
    hub.models["lab/tiny@main"] = make_export(tmp_path / "newer", tiny_model, 1)
    new = local_export(name)
    assert same(new, tmp_path / "newer")
    assert same(old, tmp_path / "tiny")
    norms = tmp_path / "newer" / "normalisation.json"
    norms.write_text(norms.read_text().replace("20.0", "30.0"))  # as large as before
    assert (local_export(name) / norms.name).read_text() == norms.read_text()


def test_a_revision_is_that_revision(hub, tmp_path, tiny_model):
    hub.models["lab/tiny@v1"] = make_export(tmp_path / "v1", tiny_model, 1)
    assert same(local_export("hf://lab/tiny@v1"), tmp_path / "v1")
    assert same(local_export("hf://lab/tiny"), tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match="no revision v2"):
        local_export("hf://lab/tiny@v2")


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, monkeypatch, capsys):
    hub.private.add("lab/tiny")
    with pytest.raises(PermissionError, match="HF_TOKEN"):
        local_export("hf://lab/tiny")
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    local_export("hf://lab/tiny")
    sent = {(host, said) for host, _, said, _ in hub.asked[1:]}
    assert sent == {("hub", f"Bearer {TOKEN}"), ("files", None)}
    hub.moved["lab/old"] = "lab/tiny"
    assert local_export("hf://lab/old")
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\nX-Other: 1")
    with pytest.raises(BadInput, match="has characters that no token has") as refused:
        local_export("hf://lab/tiny")
    assert TOKEN not in str(refused.value) + "".join(capsys.readouterr())


def test_what_a_web_server_refuses_is_said_so_and_no_copy_taken(hub):
    address = f"{hub.url}/web/lab/tiny"
    local_export(address)
    hub.private.add("lab/tiny")
    with pytest.raises(BadInput, match="may not be read"):
        local_export(address)


def test_ranks_of_a_host_fetch_one_copy(hub):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(local_export, ["hf://lab/tiny"] * 4))
    assert len(folders) == 1
    assert len(hub.fetched()) == 4


def test_ranks_that_start_from_different_exports_do_not_start(hub, monkeypatch, tiny_model):
    initial = InitialExport("hf://lab/tiny", tiny_model)
    manifest = SimpleNamespace(fingerprint="f")
    config = SimpleNamespace(model_dump_json=lambda: "{}")
    monkeypatch.setattr(start, "gather", lambda ours: [ours, ours])
    start.agree(config, manifest, None, initial)
    older = (0, "f", "0123", "{}")
    monkeypatch.setattr(start, "gather", lambda ours: [ours, older])
    with pytest.raises(ResumeMismatch, match="rank 1 starts from 0123, this rank from"):
        start.agree(config, manifest, None, initial)


def test_a_copy_that_went_bad_is_fetched_again(hub, tmp_path, capsys):
    folder = local_export("hf://lab/tiny")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert local_export("hf://lab/tiny") == folder
    assert "damaged" in capsys.readouterr().err
    assert same(folder, tmp_path / "tiny")


def test_a_fetch_that_is_cut_goes_on_where_it_stopped(hub, tmp_path, monkeypatch):
    size = (tmp_path / "tiny" / "model.safetensors").stat().st_size
    half = size // 2
    monkeypatch.setattr(hub_files, "PIECE_BYTES", half)
    hub.faults = {"model.safetensors": "cut", "README.md": "500"}
    assert same(local_export("hf://lab/tiny"), tmp_path / "tiny")
    asked = [(path, part) for host, path, _, part in hub.asked if host == "files"]
    parts = [part for path, part in asked if path.endswith(".safetensors")]
    assert size == 2 * half
    assert parts == [f"bytes=0-{half - 1}"] * 2 + [f"bytes={half}-{size - 1}"]


def test_bytes_that_are_not_those_of_their_hash_are_not_kept(hub, tmp_path):
    hub.faults = {"model.safetensors": "flip"}
    with pytest.raises(CheckpointCorrupt, match="sha256"):
        local_export("hf://lab/tiny")
    assert not list(tmp_path.rglob(f"cache/**/{RECORD}"))
    assert not list(tmp_path.rglob("cache/**/*.safetensors"))
    assert same(local_export("hf://lab/tiny"), tmp_path / "tiny")


def test_without_a_network_the_newest_copy_is_taken_and_else_one_line_says_so(
    hub, monkeypatch, capsys
):
    folder = local_export("hf://lab/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_export("hf://lab/tiny") == folder
    assert "its newest copy is taken" in capsys.readouterr().err
    for name in ("hf://lab/other", "http://127.0.0.1:9/export"):
        with pytest.raises(StoreFailed, match="cannot be reached") as refused:
            local_export(name)
        assert "give the folder's path" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_what_is_no_export_is_refused_before_its_weights_are_fetched(hub, tmp_path):
    config = tmp_path / "tiny" / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointCorrupt, match=r"hf://lab/tiny/config\.json: None version"):
        local_export("hf://lab/tiny")
    assert hub.fetched() == ["config.json"]
    config.write_text(json.dumps({**told, "readout": {"session": "s"}}))
    with pytest.raises(CheckpointCorrupt, match=r"lacks readout\.safetensors"):
        local_export("hf://lab/tiny")
    config.unlink()
    with pytest.raises(BadInput, match=r"no config\.json there"):
        local_export("hf://lab/tiny")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        local_export(f"{hub.url}/web/lab/tiny")


@pytest.mark.parametrize(
    "name",
    ["hf://tiny", "hf://../lab/tiny", "hf://lab/..", "hf://lab/tiny@a@b", "https://h/e?sig=secret"],
)
def test_a_name_that_is_no_address_of_an_export_is_refused(hub, name):
    with pytest.raises(BadInput, match="expected"):
        local_export(name)
    assert not hub.asked


def test_a_pretraining_starts_from_an_address_with_the_optimisers_state(hub, tmp_path, tiny_model):
    folder = make_export(tmp_path / "more", tiny_model, 2, optimizer={"step": 70})
    weights = dict(ndt3_dist.load_model(folder).named_parameters())
    kinds = ("exp_avg", "exp_avg_sq")
    moments = {f"{k}.{n}": torch.ones_like(w).detach() for n, w in weights.items() for k in kinds}
    save_file(moments, folder / "optimizer.safetensors")
    hub.models["lab/more@main"] = folder
    initial = InitialExport("hf://lab/more", tiny_model)
    assert initial.adam_step == 70
    assert initial.name == "hf://lab/more"
    assert torch.equal(initial.states["master"]["space.weight"], weights["space.weight"])
    assert not (local_export("hf://lab/more") / "optimizer.safetensors").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "--config", "tune_demo.yaml", "data.session=s", "--init", "hf://tiny"],
        ["evaluate", "--corpus", "c", "--model", "hf://tiny"],
        ["decode", "--recording", "r.nwb", "--model", "hf://tiny"],
        ["convert", "to-ndt3", "hf://tiny", "out.ckpt"],
        ["lineage", "hf://tiny"],
    ],
    ids=lambda words: words[0],
)
def test_programs_take_addresses(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(BadInput, match="expected hf://ORG/NAME"):
        importlib.import_module(f"ndt3_dist.programs.{words[0]}").main()


def test_functions_take_addresses(tmp_path):
    with pytest.raises(BadInput, match="expected hf://ORG/NAME"):
        ndt3_dist.open_decoder("hf://tiny")
    with pytest.raises(BadInput, match="expected hf://ORG/NAME"):
        ndt3_dist.fit(tmp_path, init="hf://tiny", out=tmp_path / "run")


def test_an_export_of_a_hub_goes_through_a_program(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convert", "to-ndt3", "hf://lab/tiny", str(tmp_path / "o")])
    importlib.import_module("ndt3_dist.programs.convert").main()
    assert (tmp_path / "o").is_file()
    told = capsys.readouterr()
    assert "hf://lab/tiny: " in told.err
    assert "state dict from hf://lab/tiny" in told.out
    monkeypatch.setattr(sys, "argv", ["lineage", "hf://lab/tiny", "--json"])
    importlib.import_module("ndt3_dist.programs.lineage").main()
    assert json.loads(capsys.readouterr().out) == []


def test_a_bar_counts_bytes_on_a_terminal_alone(monkeypatch, capsys):
    assert list(log.progress_bytes([b"ab", b"c"], "f", 3)) == [b"ab", b"c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(log.progress_bytes([b"ab", b"c"], "f", 3)) == [b"ab", b"c"]
    assert "0.00/3.00" in capsys.readouterr().err


def test_a_fetch_that_was_killed_leaves_nothing_in_the_way(hub, tmp_path):
    folder = local_export("hf://lab/tiny")
    shutil.move(folder, folder.parent / ".part")
    (folder.parent / ".part" / ".model.safetensors.0.tmp").write_bytes(b"half")
    assert local_export("hf://lab/tiny") == folder
    assert not (folder.parent / ".part").exists()
    assert not list(folder.glob("*.tmp"))
    assert same(folder, tmp_path / "tiny")

"""Exports by their addresses in a store."""

import shutil

import pytest
import torch

import ndt3_dist
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.checkpoint.local_export import local_export
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.programs.push import push

NORMS = {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {}}
TRAINED = {"run": "r", "step": 7, "epochs": 1.0, "corpus": "c", "lineage": []}


def test_an_export_in_a_bucket_is_fetched_once_and_again_where_it_changed(
    store, tmp_path, monkeypatch, tiny_model
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = {name: p.detach() for name, p in NDT3(tiny_model).named_parameters()}
    in_bucket = store.root / "lab" / "exports" / "tiny"
    described = describe_export(tiny_model, weights, "fp32", TRAINED)
    write_export(in_bucket, weights, described, NORMS)
    (in_bucket / "other.bin").write_bytes(b"\x80\x04.")
    folder = local_export("s3://lab/exports/tiny")
    assert not (folder / "other.bin").exists()
    for name, weight in ndt3_dist.load_model(folder).named_parameters():
        assert torch.equal(weight, weights[name]), name

    def sent() -> int:
        return sum(path.endswith("model.safetensors") for path, _ in store.gets)

    fetched = sent()
    assert local_export("s3://lab/exports/tiny") == folder
    assert sent() == fetched
    shutil.rmtree(in_bucket)
    weights = {name: weight + 1 for name, weight in weights.items()}
    write_export(in_bucket, weights, described, NORMS)  # config.json and sizes are the same
    newer = local_export("s3://lab/exports/tiny")
    assert newer != folder
    for name, weight in ndt3_dist.load_model(newer).named_parameters():
        assert torch.equal(weight, weights[name]), name
    store.fail("lab/exports/closed", "403")
    with pytest.raises(BadInput, match="s3://lab/exports/closed: may not be read"):
        local_export("s3://lab/exports/closed")
    with pytest.raises(FileNotFoundError, match=r"s3://lab/exports/none/config\.json"):
        local_export("s3://lab/exports/none")


def test_an_export_is_pushed_whole_with_its_card_and_never_over_another(
    store, tmp_path, monkeypatch, tiny_model
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = {name: p.detach() for name, p in NDT3(tiny_model).named_parameters()}
    write_export(
        tmp_path / "e", weights, describe_export(tiny_model, weights, "fp32", TRAINED), NORMS
    )
    (tmp_path / "e" / "notes.txt").write_text("not for others")
    with pytest.raises(BadInput, match="expected s3://BUCKET/FOLDER"):
        push(tmp_path / "e", str(tmp_path / "o"))
    size = push(tmp_path / "e", "s3://lab/pushed")
    sent = [p.split("?")[0].rsplit("/", 1)[1] for m, p in store.asked if m == "PUT"]
    assert sent[-1] == "config.json"
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors", "normalisation.json"]
    fetched = local_export("s3://lab/pushed")
    assert sum((fetched / name).stat().st_size for name in sent) == size
    for name, weight in ndt3_dist.load_model(fetched).named_parameters():
        assert torch.equal(weight, weights[name]), name
    with pytest.raises(BadInput, match="s3://lab/pushed: holds an export"):
        push(tmp_path / "e", "s3://lab/pushed")
    (tmp_path / "e" / "model.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"lacks model\.safetensors"):
        push(tmp_path / "e", "s3://lab/other")

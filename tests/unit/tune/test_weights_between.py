"""Weights between an export's and the tuned ones: chosen by a fine-tune, or made of exports."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from ndt3_dist.checkpoint import lineage
from ndt3_dist.checkpoint.average import average
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.load import load_model, read_export_config, read_normalisation, read_weights
from ndt3_dist.programs import convert
from ndt3_dist.tune import wise
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.tune_config import TuneConfig


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """The config of a fine-tune, with some overrides."""
    folder = tmp_path_factory.mktemp("between")

    def tune(*overrides: str) -> TuneConfig:
        small = ["model.layers=1", "model.dim=32", "model.heads=2", "model.feedforward=32"]
        small += ["train.steps=3", "train.batch=2", "train.eval_every=3", "optim.lr=3e-2"]
        small += ["optim.warmup_epochs=0", "train.precision=fp32", f"run.dir={folder}"]
        small += ["data.fit=calibration", f"data.corpus={corpus}"]
        return load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", [*small, *overrides])

    return tune


@pytest.fixture(scope="module")
def pair(made) -> tuple[str, str]:
    """An export, and one that was tuned from it."""
    first = finetune(made("run.name=first"), None)["export"]
    return first, finetune(made("run.name=second"), first)["export"]


def test_alpha_is_the_one_that_does_best_on_what_was_held_back(made, pair, monkeypatch):
    first, second = pair
    truth = {0.0: 0.1, 0.25: 0.3, 1.0: 0.2}
    asked = iter(truth.values())
    monkeypatch.setattr(wise.HeldBack, "of", lambda *_: {"val_r2": next(asked)})
    monkeypatch.setattr(wise.HeldBack, "scores", lambda *_: {"val_r2": 0.2, "val_s": 0.0})
    found = finetune(made("run.name=chosen", f"train.wise={[*truth]}"), first)
    assert (found["wise"], found["r2_val"], found["best_step"]) == (0.25, 0.3, 3)
    before, after, ours = (read_weights(e) for e in (first, second, found["export"]))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, 0.75 * before[name] + 0.25 * after[name])
    assert read_export_config(found["export"])["trained"]["wise"] == 0.25


@pytest.mark.parametrize("options", [[], ["lora.rank=2"], ["train.refit=true"]])
def test_at_0_it_is_the_export_and_at_1_the_tuned_one(made, pair, options):
    name = "-".join(options).replace("=", "-") or "plain"
    end = finetune(made(f"run.name={name}", *options), pair[0])["export"]
    for alpha, same in ((0, pair[0]), (1, end)):
        told = f"run.name={name}{alpha}", f"train.wise=[{alpha}]"
        found = finetune(made(*told, *options), pair[0])["export"]
        ours, theirs = read_weights(found), read_weights(same)
        assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_what_began_anew_is_taken_whole(made, pair):
    anew = "transfer.reinit=[spikes]"
    whole = read_weights(finetune(made(anew, "run.name=whole"), pair[0])["export"])
    ours = read_weights(finetune(made(anew, "train.wise=[0]", "run.name=anew"), pair[0])["export"])
    before = read_weights(pair[0])
    changed = {name.partition(".")[0] for name in ours if not torch.equal(ours[name], before[name])}
    assert changed == {"spike_in", "spike_out"}
    assert all(torch.equal(w, whole[n]) for n, w in ours.items() if n.startswith("spike"))


def test_it_needs_an_export_to_go_from(made, pair):
    with pytest.raises(BadInput, match=r"train\.wise goes from an export's weights"):
        finetune(made("train.wise=[0, 1]", "run.name=no"), None)
    with pytest.raises(BadInput, match=r"train\.wise goes from an export's weights"):
        finetune(made("train.wise=[0, 1]", "run.name=no"), pair[0], scratch=True)
    with pytest.raises(BadInput, match="expected shares from 0 to 1"):
        made("train.wise=[2]")


def test_a_mean_of_exports_decodes_what_the_last_does_and_has_seen_what_all_have(
    corpus, pair, tmp_path, monkeypatch, capsys
):
    other = tmp_path / "between"
    words = ["average", *pair, str(other), "--alpha", "0.25"]
    monkeypatch.setattr(sys, "argv", ["convert", *words])
    convert.main()
    said = capsys.readouterr().out
    assert "gains of expected counts belong to one export" in said
    assert f"0.75 of {pair[0]}, 0.25 of {pair[1]}" in said
    before, after, ours = (read_weights(e) for e in (*pair, other))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, 0.75 * before[name] + 0.25 * after[name])
    assert read_normalisation(other) == read_normalisation(pair[1])
    trained = read_export_config(other)["trained"]
    assert trained["lineage"] == lineage.of_export(read_export_config(pair[1]))  # has the first's
    assert [p["share"] for p in trained["averaged"]] == [0.75, 0.25]
    assert "The mean of 2 exports" in (other / "README.md").read_text()
    assert math.isfinite(evaluate({"m": str(other)}, corpus, history=2)["scores"]["m"]["r2"])
    for share, same in ((0, before), (1, after)):
        average(pair, tmp_path / str(share), [1 - share, share])
        found = read_weights(tmp_path / str(share))
        assert all(torch.equal(weight, same[name]) for name, weight in found.items())
    average([*pair, pair[0]], tmp_path / "three", [1, 1, 2])
    weight = load_model(tmp_path / "three").spike_out.weight
    torch.testing.assert_close(
        weight.detach(), 0.75 * before["spike_out.weight"] + 0.25 * after["spike_out.weight"]
    )


def test_lineages_that_part_are_joined():
    a, b, c = ({"corpus": x, "split": "train", "steps": 1, "sessions": {}} for x in "abc")
    assert lineage.union([[a, b], [a, c], [a], [a, a]]) == [a, b, c, a]


def test_exports_that_have_no_mean_are_refused(made, pair, tmp_path):
    wide = finetune(made("run.name=wide", "model.feedforward=64"), None)["export"]
    with pytest.raises(BadInput, match=r"differ in feedforward 32 and 64; expected exports of one"):
        average([pair[0], wide], tmp_path / "no", [1, 1])
    read = finetune(made("run.name=r", "train.steps=0", "readout.history=[2]"), pair[0])["export"]
    with pytest.raises(BadInput, match="filters that were fitted to its hidden states, which have"):
        average([pair[0], read], tmp_path / "no", [1, 1])
    for weights in ([0, 0], [-1, 2], [math.nan, 1]):
        with pytest.raises(BadInput, match="expected numbers from 0 up"):
            average(pair, tmp_path / "no", weights)
    with pytest.raises(BadInput, match="1 exports and 1 weights"):
        average(pair[:1], tmp_path / "no", [1])
    torn = Path(read) / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-8])
    config = Path(read) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "readout": None}))
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        average([pair[0], read], tmp_path / "no", [1, 1])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "c", "out", "--alpha", "0.5"], "--alpha 0.5 of 3 exports; expected 0 to 1"),
        (["a", "b", "out", "--alpha", "1.5"], "--alpha 1.5 of 2 exports"),
    ],
)
def test_alpha_is_of_two(words, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert", "average", *words])
    with pytest.raises(BadInput, match=said):
        convert.main()

"""Ensembles, submissions and their checks, and published checkpoints, by the program itself."""

import json
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
from nlb_trials import config_for, tensors_of

from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.programs.tasks.nlb import main
from ndt3_dist.simulate.lorenz import lorenz_trials
from ndt3_dist.tasks.nlb import nlb_ensemble, nlb_submission
from ndt3_dist.tasks.nlb.ndt1 import build
from ndt3_dist.tasks.nlb.nlb_data import make_data
from ndt3_dist.tasks.nlb.nlb_datasets import DATASETS
from ndt3_dist.tasks.nlb.nlb_h5 import read_h5, write_h5
from ndt3_dist.tasks.nlb.nlb_metrics import bits_per_spike
from ndt3_dist.tasks.nlb.nlb_published import import_checkpoint
from ndt3_dist.tasks.nlb.nlb_snapshots import (
    candidates,
    open_snapshot,
    rates_of,
    read_weights,
    save_weights,
)

HELDIN, HELDOUT = 8, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data of Lorenz trials, and four snapshots of untrained models."""
    folder = tmp_path_factory.mktemp("nlb")
    spikes = lorenz_trials(36, 45, HELDIN + HELDOUT, 0, mean_count=0.5).spikes
    tensors = tensors_of(spikes, {"train": 20, "eval": 16}, HELDIN)
    source = write_h5(folder / "tensors.h5", tensors)
    options = ["num_workers=0"]
    data, _ = make_data(DATASETS["mc_maze_small"], str(source), folder / "data", 20, options)
    inputs = {k: v for k, v in tensors.items() if k.startswith("train_spikes")}
    scored = {k: v for k, v in tensors.items() if k.startswith("eval_spikes")}
    write_h5(data.path / "test/train_input.h5", inputs)
    write_h5(data.path / "test/eval_input.h5", {"eval_spikes_heldin": scored["eval_spikes_heldin"]})
    options = config_for(data, folder / "x").model.model_dump(mode="json")
    for number in range(4):
        torch.manual_seed(number)
        weights = build(options).state_dict()
        path = folder / f"runs/trials/{number:04d}/seed0/export/masked.safetensors"
        save_weights(path, weights, options, {"val_loss": 1.0}, data.fingerprint)
    return folder, data


def noisy(rng, spikes, rates, number=7, noise=0.5):
    return [rates * np.exp(noise * rng.normal(size=rates.shape)) for _ in range(number)]


def test_the_ensemble_is_the_mean_of_the_best_and_its_optimism_is_told():
    rng = np.random.default_rng(0)
    rates = rng.gamma(3, 0.1, (40, 20, 6))
    spikes = rng.poisson(rates).astype(float)
    models = noisy(rng, spikes, rates)
    models[3] = rates * 9  # far off: to be ranked last
    choice, order = nlb_ensemble.choose([f"m{i}" for i in range(7)], models, spikes)
    scores = [bits_per_spike(m, spikes) for m in models]
    assert order.tolist() == np.argsort(scores)[::-1].tolist()
    assert choice.names[-1] == "m3"
    for count, value in enumerate(choice.curve, 1):
        mean = np.mean([models[i] for i in order[:count]], axis=0)
        assert value == pytest.approx(bits_per_spike(mean, spikes), abs=1e-12)
    assert choice.number == int(np.argmax(choice.curve)) + 1
    assert 2 <= choice.number <= 6
    assert choice.curve[choice.number - 1] > max(scores)
    fixed, _ = nlb_ensemble.choose([f"m{i}" for i in range(7)], models, spikes, number=2)
    assert fixed.number == 2
    with pytest.raises(BadInput, match="--members 9; there are 7 snapshots"):
        nlb_ensemble.choose([f"m{i}" for i in range(7)], models, spikes, number=9)


def test_choosing_among_chance_promises_more_than_it_gives():
    """Forty models that are nothing but noise: the best on these trials is so by chance."""
    rng = np.random.default_rng(1)
    spikes = rng.poisson(0.3, (40, 20, 4)).astype(float)
    models = [0.3 * np.exp(0.3 * rng.normal(size=spikes.shape)) for _ in range(40)]
    choice, _ = nlb_ensemble.choose([str(i) for i in range(40)], models, spikes)
    assert choice.optimism > 0
    assert choice.nested == pytest.approx(choice.curve[choice.number - 1] - choice.optimism)


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs `ndt3 nlb ARGUMENTS`; gives what it said."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ndt3 nlb", *map(str, arguments)])
        assert main() == 0
        return capsys.readouterr().out

    return run


def test_a_submission_goes_round_and_a_swapped_checkpoint_is_found(made, tmp_path, program):
    folder, data = made
    runs = tmp_path / "runs"
    shutil.copytree(folder / "runs", runs)
    common = ("--runs", runs, "--data", data.path)
    said = program("ensemble", *common, "--out", tmp_path / "test.h5", "--members", "3")
    assert "the mean of 3: val co-bps" in said
    assert "promises" in said
    group = read_h5(tmp_path / "test.h5")["mc_maze_small_20"]
    assert sorted(group) == sorted(nlb_submission.RATES)
    assert group["eval_rates_heldout_forward"].shape == (16, 10, HELDOUT)
    listed = json.loads((runs / "ensemble.json").read_text())["members"]
    inputs = data.tensors("test", "eval_input")["eval_spikes_heldin"]
    each = [rates_of(open_snapshot(runs / m["file"], "").load(), inputs) for m in listed]
    expected = np.mean(each, axis=0)[:, :35, HELDIN:]
    np.testing.assert_allclose(group["eval_rates_heldout"], expected, rtol=1e-6)
    said = program("validate", tmp_path / "test.h5", *common)
    assert "the rates are those of its 3 snapshots" in said
    with pytest.raises(BadInput, match="exists; choose another --out"):
        program("ensemble", *common, "--out", tmp_path / "test.h5")
    out = {m["name"] for m in listed}
    other = next(p for p in runs.rglob("*.safetensors") if p.parts[-4] not in {*map(_id, out)})
    shutil.copy(other, runs / listed[1]["file"])
    with pytest.raises(BadInput) as refused:
        program("validate", tmp_path / "test.h5", *common)
    assert f"member {listed[1]['name']}" in str(refused.value)
    assert "has other weights than when the ensemble was made" in str(refused.value)
    assert "eval_rates_heldout:" in str(refused.value)


def _id(name: str) -> str:
    return name.split("/")[0]


def test_scores_are_those_of_the_metrics_and_bad_submissions_are_refused(made, tmp_path, program):
    folder, data = made
    target = data.path / "val/target.h5"
    common = ("--runs", folder / "runs", "--data", data.path)
    program("ensemble", *common, "--out", tmp_path / "v.h5", "--phase", "val")
    said = program("evaluate", tmp_path / "v.h5", "--target", target)
    scores = json.loads(said.splitlines()[-1])["mc_maze_small_20"]
    group = read_h5(tmp_path / "v.h5")["mc_maze_small_20"]
    truth = read_h5(target)["mc_maze_small_20"]
    co_bps = bits_per_spike(
        group["eval_rates_heldout"].astype(float), truth["eval_spikes_heldout"].astype(float)
    )
    assert scores["co-bps"] == pytest.approx(co_bps, abs=1e-9)
    assert {"co-bps", "vel R2", "fp-bps"} == scores.keys()
    shape = truth["eval_spikes_heldout"].shape
    spikes = np.random.default_rng(2).poisson([0.2, 0.5, 1.2, 3], shape).astype(np.float32)
    truth["eval_spikes_heldout"] = spikes
    mean = spikes.mean(axis=(0, 1))
    like = np.exp(np.random.default_rng(0).normal(size=group["eval_rates_heldout"].shape) * 0.1)
    close = group | {"eval_rates_heldout": (mean * like).astype(np.float32)}

    def refused(change, said, key="mc_maze_small_20"):
        found = {key: change({k: v.copy() for k, v in close.items()})}
        with pytest.raises(BadInput, match=said):
            nlb_submission.evaluate(found, {"mc_maze_small_20": truth}, "sub.h5")

    nlb_submission.evaluate({"mc_maze_small_20": close}, {"mc_maze_small_20": truth}, "sub.h5")
    refused(lambda g: g, "sub.h5 has mc_maze_small, rates in bins of 5 ms", "mc_maze_small")
    refused(
        lambda g: g | {"eval_rates_heldout": np.repeat(g["eval_rates_heldout"], 4, axis=1)},
        "eval_rates_heldout has shape .*bins of 5 ms, expected 20 ms",
    )
    refused(
        lambda g: g | {"eval_rates_heldout": g["eval_rates_heldout"][:9]},
        "9 trials, expected 16; those of another split or phase",
    )
    place = np.empty(4, int)
    place[np.argsort(mean)] = np.argsort(mean)[::-1]
    refused(
        lambda g: g | {"eval_rates_heldout": g["eval_rates_heldout"][:, :, place]},
        "the mean counts of its units in another order",
    )
    refused(lambda g: g | {"eval_rates_heldin": -g["eval_rates_heldin"]}, "are they log rates")
    refused(lambda g: g | {"eval_rates_heldin": g["eval_rates_heldin"] * np.nan}, "that are NaN")
    refused(
        lambda g: g | {"eval_rate_heldout": g["eval_rates_heldin"]}, "eval_rate_heldout is none"
    )
    refused(lambda g: {k: v for k, v in g.items() if "train" not in k}, "has no train_rates_heldin")


def test_snapshots_of_another_corpus_are_refused(made):
    folder, data = made
    found = candidates(folder / "runs")
    nlb_ensemble.check_corpus(found, data)
    other = type(data)(data.path, data.dataset, data.bin_ms, "f" * 64)
    with pytest.raises(BadInput, match="its units or trials may be others"):
        nlb_ensemble.check_corpus(found, other)


class CfgNode(dict):
    """As yacs has it: a dictionary with attributes of its own."""

    def __init__(self, values=()):
        super().__init__(values)
        self.__dict__["__immutable__"] = True


def published(path, monkeypatch, embed=0, **model):
    """A file of the structure that NDT1's runner saves."""
    import sys
    import types

    module = types.ModuleType("yacs.config")
    vars(module)["CfgNode"] = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    torch.manual_seed(5)
    units, length, max_spikes = HELDIN + HELDOUT, 45, 6
    width = units * max(embed, 1)
    layers = [torch.nn.TransformerEncoderLayer(width, 2, 16, 0.1) for _ in range(2)]
    state = OrderedDict()
    if embed:
        state["embedder.0.weight"] = torch.randn(max_spikes + 2, embed)
    state["pos_encoder.pe"] = torch.arange(length)[:, None]
    state["pos_encoder.pos_embedding.weight"] = torch.randn(length, width)
    for number, layer in enumerate(layers):
        for name, value in layer.state_dict().items():
            state[f"transformer_encoder.layers.{number}.{name}"] = value
    state["transformer_encoder.norm.weight"] = torch.rand(width) + 0.5
    state["transformer_encoder.norm.bias"] = torch.randn(width)
    state["decoder.0.weight"] = torch.randn(units, width) / 10
    state["decoder.0.bias"] = torch.randn(units) / 10
    config = CfgNode(
        {
            "MODEL": CfgNode(
                {"NAME": "NeuralDataTransformer", "HIDDEN_SIZE": 16, "NUM_HEADS": 2}
                | {"NUM_LAYERS": 2, "EMBED_DIM": embed, "LEARNABLE_POSITION": True}
                | {"PRE_NORM": True, "CONTEXT_FORWARD": 4, "CONTEXT_BACKWARD": 9}
                | {"LOSS": CfgNode({"TYPE": "poisson", "TOPK": 1.0})}
                | model
            ),
            "TRAIN": CfgNode({"MASK_RATIO": 0.25, "USE_ZERO_MASK": True, "MASK_MAX_SPAN": 4}),
        }
    )
    content = {"state_dict": state, "optim_state": {"state": {0: {"step": 3}}}, "config": config}
    content |= {"best_val": {"value": 0.31, "update": 40}, "num_neurons": units}
    content |= {"max_spikes": max_spikes, "trial_length": length, "extra_state": {"update": 40}}
    torch.save(content, path)
    return state, layers


@pytest.mark.parametrize("embed", [0, 2])
def test_a_published_checkpoint_predicts_as_torchs_own_layers_do(
    made, tmp_path, monkeypatch, embed
):
    _, data = made
    path = tmp_path / "ab12.lve.pth"
    state, layers = published(path, monkeypatch, embed)
    snapshot = import_checkpoint(path, "mc_maze_small", HELDIN, tmp_path / "out", 20)
    heldin = data.tensors("val", "eval_input")["eval_spikes_heldin"][:3]
    found = rates_of(open_snapshot(snapshot, "x").load(), heldin)
    given = torch.zeros(3, 45, HELDIN + HELDOUT, dtype=torch.long)
    given[:, :35, :HELDIN] = torch.from_numpy(heldin).long()
    x = given.float()
    if embed:
        x = torch.nn.functional.embedding(given, state["embedder.0.weight"]).flatten(2)
    x = (x * x.shape[2] ** 0.5 + state["pos_encoder.pos_embedding.weight"]).transpose(0, 1)
    ahead = torch.arange(45)[None] - torch.arange(45)[:, None]
    mask = torch.zeros(45, 45).masked_fill((ahead > 4) | (ahead < -9), -torch.inf)
    with torch.no_grad():
        for layer in layers:
            layer.eval()
            y = layer.norm1(x)
            x = x + layer.self_attn(y, y, y, attn_mask=mask)[0]
            x = x + layer.linear2(torch.relu(layer.linear1(layer.norm2(x))))
        parts = state["transformer_encoder.norm.weight"], state["transformer_encoder.norm.bias"]
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], *parts)
        logs = x @ state["decoder.0.weight"].T + state["decoder.0.bias"]
    expected = logs.transpose(0, 1).double().exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert open_snapshot(snapshot, "x").scores == {"step": 40.0, "val_loss": 0.31}


def test_what_our_ndt1_does_not_do_is_refused_by_its_setting(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    published(path, monkeypatch, SCALE_NORM=True)
    with pytest.raises(Unsupported, match=r"MODEL.SCALE_NORM is True; expected False"):
        import_checkpoint(path, "mc_maze_small", HELDIN, tmp_path, 20)
    published(path, monkeypatch)
    with pytest.raises(BadInput, match="trials of 45 bins; mc_maze_small has 140 and 40"):
        import_checkpoint(path, "mc_maze_small", HELDIN, tmp_path, 5)


def test_a_checkpoint_that_names_more_than_data_is_never_run(tmp_path):
    import os

    class Bad:
        def __reduce__(self):
            return os.system, ("touch /tmp/never",)

    torch.save({"state_dict": {}, "config": Bad()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointCorrupt, match=r"names (posix|os)\.system"):
        import_checkpoint(tmp_path / "x.pth", "mc_maze_small", HELDIN, tmp_path)


def test_a_snapshot_with_other_weights_than_its_model_is_refused(made, tmp_path):
    folder, _ = made
    one = candidates(folder / "runs")[0]
    weights = read_weights(one.path)
    weights.pop("position")
    save_weights(tmp_path / "a.safetensors", weights, one.model, {})
    with pytest.raises(CheckpointCorrupt, match="other weights than its model: position"):
        open_snapshot(tmp_path / "a.safetensors", "a").load()


def test_a_list_that_leads_out_of_its_runs_is_refused(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    said = {"name": "a", "file": "../../x.safetensors", "sha256": ""}
    (runs / "ensemble.json").write_text(json.dumps({"dataset": "mc_maze", "members": [said]}))
    with pytest.raises(BadInput, match=r"leads out of .*; refused"):
        nlb_ensemble.read_list(runs)

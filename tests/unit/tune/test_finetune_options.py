"""What each option of a fine-tune does: covariates, freezing, layer-wise rates, patience, refit."""

import json

import numpy as np
import pytest
import torch
from small_corpus import make_recording, write_corpus

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.continuous import choose_covariates
from ndt3_dist.data.order import generator
from ndt3_dist.engines import plain
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.errors import BadInput, Diverged
from ndt3_dist.evaluate import session as session_module
from ndt3_dist.evaluate.session import evaluate, read_test_data
from ndt3_dist.model.load import load_model
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.tune import finetune as finetune_module
from ndt3_dist.tune import held_back
from ndt3_dist.tune.draws import Windows, draw_windows
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.fit_data import read_fit_data
from ndt3_dist.tune.joint import Joint
from ndt3_dist.tune.parts import part_of, rate_scales
from ndt3_dist.tune.tune_config import TuneConfig


def tune(corpus, folder, *overrides) -> TuneConfig:
    small = ["model.layers=1", "model.dim=64", "model.heads=2", "model.feedforward=64"]
    small += ["train.steps=4", "train.batch=2", "train.eval_every=2", "data.fit=calibration"]
    small += [f"data.corpus={corpus}", f"run.dir={folder}"]
    return load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", [*small, *overrides])


@pytest.mark.parametrize(
    "frozen", [["backbone", "covariates"], ["spikes", "embeddings", "context"]]
)
def test_frozen_parts_keep_every_bit_and_all_others_move(corpus, tmp_path, frozen):
    first = finetune(tune(corpus, tmp_path), None)["export"]
    second = finetune(tune(corpus, tmp_path, "run.name=f", f"train.freeze={frozen}"), first)
    before = dict(load_model(first).named_parameters())
    for name, weight in load_model(second["export"]).named_parameters():
        assert torch.equal(weight, before[name]) == (part_of(name) in frozen), name


def test_layer_decay_sets_the_size_of_each_step(tiny_model):
    """AdamW's first step is the learning rate itself, whatever the gradient."""
    model = NDT3(tiny_model)
    config = load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml")
    optim = config.optim.model_copy(update={"weight_decay": 0.0, "eps": 1e-20})
    scales = rate_scales(model, 0.5, {"spike_in.weight"})
    optimizer = PlainOptimizer(model, optim, "fp32", scales)
    before = optimizer.snapshot()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(1e-3)
    sizes = {n: float((w - before[n]).abs().median()) for n, w in optimizer.snapshot().items()}
    expected = {
        "blocks.0.attention.qkv.weight": 0.25e-3,
        "blocks.1.mlp.down.weight": 0.5e-3,
        "spike_out.weight": 1e-3,
        "covariate_out.weight": 1e-3,
        "spike_in.weight": 1e-3,  # new
        "covariate_in.weight": 0.125e-3,
        "space.weight": 0.125e-3,
        "sos": 0.125e-3,
        "constraint_in": 0.125e-3,
        "return_in.weight": 0.125e-3,
    }
    assert {n: sizes[n] for n in expected} == pytest.approx(expected, rel=1e-3)


def test_layer_decay_reaches_the_optimizer(corpus, tmp_path, monkeypatch):
    seen = {}

    class Spy(PlainOptimizer):
        def __init__(self, model, optim, precision, scales):
            super().__init__(model, optim, precision, scales)
            seen.update({g["scale"]: len(g["params"]) for g in self.adamw.param_groups})

    monkeypatch.setattr(plain, "PlainOptimizer", Spy)
    first = finetune(tune(corpus, tmp_path), None)["export"]
    assert list(seen) == [1.0]  # from scratch all weights are new
    seen.clear()
    config = tune(corpus, tmp_path, "run.name=d", "optim.layer_decay=0.5", "train.steps=1")
    finetune(config, first)
    heads, block, below = 4, 10, 8
    assert seen == {1.0: heads, 0.5: block, 0.25: below}


def test_patience_ends_a_run_that_no_longer_gains(corpus, tmp_path, monkeypatch):
    found = iter([0.1, 0.3, 0.2, 0.4, 0.1, 0.4, 0.3, 0.9, 0.9])
    monkeypatch.setattr(
        held_back, "r2_scores", lambda *_: dict.fromkeys(("r2", "r2_uniform"), next(found))
    )
    overrides = ["train.steps=9", "train.eval_every=1", "train.batch=1"]
    result = finetune(tune(corpus, tmp_path, *overrides, "train.patience=3"), None)
    assert (result["best_step"], result["r2_val"]) == (4, 0.4)
    lines = (tmp_path / "stevenson" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    overrides = ["run.name=four", "train.steps=4", "train.eval_every=4", "train.batch=1"]
    four = finetune(tune(corpus, tmp_path, *overrides), None)
    assert four["best_step"] == 4
    ours, theirs = (dict(load_model(r["export"]).named_parameters()) for r in (result, four))
    assert all(torch.equal(w, theirs[n]) for n, w in ours.items())


def test_a_refit_trains_on_the_whole_split_for_the_best_number_of_steps(corpus, tmp_path):
    config = tune(corpus, tmp_path, "run.name=refit", "train.refit=true")
    data = read_fit_data(config)
    assert sum(map(len, data.first)) < sum(map(len, data.whole().first)) == 1000
    assert data.whole().last == []
    first = finetune(tune(corpus, tmp_path), None)
    refit = finetune(config, None)
    assert (refit["best_step"], refit["r2_val"]) == (first["best_step"], first["r2_val"])
    once, again = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("refit/metrics.jsonl", "refit/refit/metrics.jsonl")
    )
    assert len(again) == refit["best_step"]
    assert not any("val_r2" in values for values in again)
    assert again[0]["loss"] != once[0]["loss"]  # other windows: drawn from all bins
    # The same start and the same seeds: without anything held back it is the same training.
    model, new = finetune_module.start_model(config, None, False)
    steps = refit["best_step"]
    by_hand = tmp_path / "by_hand"
    _, weights, _ = finetune_module.fit(config, model, new, Joint([data.whole()]), steps, by_hand)
    exported = dict(load_model(refit["export"]).named_parameters())
    assert all(torch.equal(w, exported[n]) for n, w in weights.items())


def test_only_chosen_covariates_become_tokens_and_targets(corpus, tmp_path):
    both = read_fit_data(tune(corpus, tmp_path))
    config = tune(corpus, tmp_path, "data.covariates=[y]")
    data = read_fit_data(config)
    assert [c.name for c in data.session.covariates] == ["y"]
    assert np.array_equal(data.first[0].covariates[:, 0], both.first[0].covariates[:, 1])
    windows = Windows(Joint([data]), config.model)
    arrays, _ = draw_windows(windows, 3, generator("d"))
    patches = 2
    assert (np.diff(arrays["cu_seqlens"]) == 100 * (patches + 1)).all()
    assert len(arrays["covariates"]) == 300
    swapped = read_fit_data(tune(corpus, tmp_path, "data.covariates=[y, x]"))
    assert np.array_equal(swapped.last[0].covariates, both.last[0].covariates[:, ::-1])


def test_a_covariate_that_is_not_there_is_refused_with_the_nearest(corpus, tmp_path):
    with pytest.raises(BadInput, match=r"no covariate 'velocity' \(there are: x, y\)"):
        finetune(tune(corpus, tmp_path, "data.covariates=[x, velocity]"), None)
    with pytest.raises(BadInput, match="named twice in x, x"):
        read_fit_data(tune(corpus, tmp_path, "data.covariates=[x, x]"))
    data = read_fit_data(tune(corpus, tmp_path))
    renamed = [c.model_copy(update={"name": f"vel_{c.name}"}) for c in data.session.covariates]
    session = data.session.model_copy(update={"covariates": renamed})
    with pytest.raises(BadInput, match="did you mean vel_x"):
        choose_covariates(session, data.first, ["velx"])


def test_decoders_are_scored_on_the_covariates_that_all_of_them_decode(
    corpus, tmp_path, monkeypatch
):
    exports = {
        name: finetune(tune(corpus, tmp_path, f"run.name={name}", covariates), None)["export"]
        for name, covariates in (
            ("all", "data.covariates=[]"),
            ("x", "data.covariates=[x]"),
            ("y", "data.covariates=[y]"),
            ("yx", "data.covariates=[y, x]"),
        )
    }
    norms = json.loads((tmp_path / "y" / "export" / "normalisation.json").read_text())
    assert [c["name"] for c in norms["sessions"]["t-S-03"]["covariates"]] == ["y"]
    data = read_test_data(corpus, "t-S-03")
    result = evaluate({"y": exports["y"]}, corpus, history=3)
    assert result["dims"] == ["y (cm/s)"]
    assert result["truth"].shape == result["predictions"]["y"].shape == (550, 1)
    assert np.array_equal(result["truth"][:, 0], data.truth[:, 1])
    assert result["predictions"]["ridge"].shape == (550, 1)
    assert result["scores"]["y"]["bins"] == result["scores"]["ridge"]["bins"] == 550
    with pytest.raises(BadInput, match="decoded by all of"):
        evaluate({n: exports[n] for n in ("x", "y")}, corpus, history=3)
    # A decoder that is always right: a covariate in the wrong place would show.
    monkeypatch.setattr(
        session_module, "model_predictions", lambda model, data, *_: (data.truth / data.scale, 0.0)
    )
    for names, dims in ((("all", "x"), ["x"]), (("all", "yx"), ["x", "y"]), (("yx", "y"), ["y"])):
        result = evaluate({n: exports[n] for n in names}, corpus, history=3)
        assert result["dims"] == [f"{d} (cm/s)" for d in dims]
        for name in names:
            assert result["scores"][name]["r2_per_dimension"] == pytest.approx([1.0] * len(dims))


def test_an_export_for_covariates_that_the_corpus_lacks_is_refused(corpus, tmp_path):
    export = finetune(tune(corpus, tmp_path), None)["export"]
    file = tmp_path / "stevenson" / "export" / "normalisation.json"
    norms = json.loads(file.read_text())
    norms["sessions"]["t-S-03"]["covariates"][1]["name"] = "z"
    file.write_text(json.dumps(norms))
    with pytest.raises(BadInput, match=r"decodes \['x', 'z'\] of t-S-03, the corpus has"):
        evaluate({"a": export}, corpus, history=3)


def test_one_command_gives_a_baseline_from_scratch_with_every_option(corpus, tmp_path):
    first = finetune(tune(corpus, tmp_path), None)["export"]
    options = [
        "train.freeze=[backbone]",
        "lora.rank=2",
        "optim.layer_decay=0.5",
        "train.patience=2",
    ]
    options += ["transfer.channels_per_token=64", "transfer.reinit=[spikes]", "train.refit=true"]
    options += ["data.covariates=[y]"]
    tuned = finetune(tune(corpus, tmp_path, *options, "run.name=t"), first)["export"]
    scratch = finetune(tune(corpus, tmp_path, *options, "run.name=s"), first, True)["export"]
    assert load_model(tuned).config == load_model(scratch).config
    result = evaluate({"tuned": tuned, "scratch": scratch}, corpus, history=3)
    assert result["dims"] == ["y (cm/s)"]


def test_a_fine_tune_that_diverges_names_the_step_and_leaves_no_export(corpus, tmp_path):
    wild = ["optim.lr=1e30", "optim.warmup_epochs=0", "run.name=wild"]
    with pytest.raises(Diverged, match=r"run wild: its last 3 steps .* lower optim\.lr"):
        finetune(tune(corpus, tmp_path, *wild), None)
    assert not (tmp_path / "wild" / "export").exists()


def test_a_session_that_the_model_cannot_hold_leaves_no_run(corpus, tmp_path):
    small = ["transfer.behavior_dim=1", "run.name=r"]
    with pytest.raises(BadInput, match=r"has 2 covariates; model\.behavior_dim is 1"):
        finetune(tune(corpus, tmp_path, *small), None)
    assert not (tmp_path / "r").exists()


def test_windows_of_a_few_bins_are_scored_too(tmp_path):
    splits = [{"intervals": {"calibration": (0, 0.8), "test": (0.8, 1)}}]
    write_corpus(tmp_path / "c", [make_recording(1, 30, [40])], splits=splits, window_ms=160)
    result = finetune(tune(str(tmp_path / "c"), tmp_path), None)
    assert result["best_step"] > 0

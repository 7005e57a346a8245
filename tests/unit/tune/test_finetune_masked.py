"""Fine-tunes of masked exports: with labels, without, with either loss alone."""

import numpy as np
import pytest
import torch

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.load import load_model, read_normalisation
from ndt3_dist.tune.draws import Windows, draw_windows, spike_targets
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.joint import read_joint
from ndt3_dist.tune.transfer import start_model
from ndt3_dist.tune.tune_config import TuneConfig

MASKED = ["model.layers=1", "model.dim=32", "model.heads=2", "model.feedforward=32"]
MASKED += ["model.channels_per_token=32", "model.objective=masked", "model.mask_span=20"]
MASKED += ["model.context=[session,array]"]
SHORT = ["train.steps=2", "train.eval_every=2", "train.batch=2", "data.val_fraction=0.03"]


def tune(corpus, folder, *overrides):
    path = PROJECT / "configs" / "stevenson.yaml"
    where = [f"data.corpus={corpus}", f"run.dir={folder}", "data.fit=calibration"]
    still = ["optim.weight_decay=0", "optim.warmup_epochs=0"]
    return load_config(TuneConfig, path, [*MASKED, *SHORT, *where, *still, *overrides])


@pytest.fixture(scope="module")
def begun(corpus, tmp_path_factory) -> str:
    return finetune(tune(corpus, tmp_path_factory.mktemp("begun")), None)["export"]


def test_a_masked_export_is_fitted_scored_and_held_out(corpus, begun):
    assert load_model(begun).config.identities == ("session:t-S-03", "array:t/S/a0")
    told = read_normalisation(begun)["sessions"]["t-S-03"]["identities"]
    assert told == ["session:t-S-03", "array:t/S/a0"]
    result = evaluate({"m": begun}, corpus, history=3, context=10, held_out=["a0"])
    scores = result["scores"]["m"]
    assert np.isfinite([scores["r2"], scores["bits_per_spike"], scores["co_bits_per_spike"]]).all()
    assert scores["bins"] == 550
    assert result["scores"]["ridge"]["co_bits_per_spike"] is None


@pytest.mark.parametrize(
    ("objective", "stays", "moves", "metric"),
    [
        ("spikes", "covariate_out.weight", "spike_out.weight", "val_bits_per_spike"),
        ("covariates", "spike_out.weight", "covariate_out.weight", "val_r2"),
    ],
)
def test_what_is_no_objective_moves_nothing(
    corpus, begun, tmp_path, objective, stays, moves, metric
):
    found = finetune(tune(corpus, tmp_path, f"train.objective={objective}"), begun)
    before, after = (dict(load_model(e).named_parameters()) for e in (begun, found["export"]))
    assert torch.equal(before[stays], after[stays])
    assert not torch.equal(before[moves], after[moves])
    assert (found["metric"], np.isfinite(found["score"])) == (metric, True)
    assert np.isfinite(found["r2_val"]) == (metric == "val_r2")


def test_steps_draw_masks_that_the_loss_is_counted_by(corpus, tmp_path, begun):
    data, model = read_joint(tune(corpus, tmp_path), None), load_model(begun)
    windows = Windows(data, model.config)
    one, again, other = (
        draw_windows(windows, 3, np.random.default_rng(seed))[0] for seed in (1, 1, 2)
    )
    hidden = one["spike_hidden"]
    assert np.array_equal(hidden, again["spike_hidden"])
    assert not np.array_equal(hidden, other["spike_hidden"])
    assert spike_targets(one, model.config) == 3 * 30 * 40  # windows, hidden bins, channels
    causal = model.config.model_copy(update={"objective": "causal"})
    assert spike_targets(one, causal) == 3 * 100 * 40


def test_a_masked_model_of_counts_alone_needs_neither_labels_nor_an_export(corpus, tmp_path):
    alone = tune(corpus, tmp_path, "train.objective=spikes")
    found = finetune(alone, None)
    assert np.isfinite(found["score"])
    assert read_normalisation(found["export"])["sessions"]["t-S-03"]["covariates"] == []
    with pytest.raises(BadInput, match="objective spikes adapts a decoder"):
        read_joint(tune(corpus, tmp_path, "train.objective=spikes", "model.objective=causal"), None)


def test_replayed_windows_are_hidden_from_and_have_identities(corpus, begun, tmp_path):
    overrides = ["data.replay={sessions: ['*-01'], split: train, weight: 0.5}"]
    config = tune(corpus, tmp_path, *overrides)
    joint = read_joint(config, begun)
    model, _ = start_model(config, begun, False, joint.all_sessions)
    assert model.config.identities[-1] == "session:t-S-01"
    windows = Windows(joint, model.config)
    arrays, numbers = draw_windows(windows, 4, np.random.default_rng(0))
    assert (numbers >= windows.fitted).sum() == 2
    assert spike_targets(arrays, model.config) == 4 * 30 * 40

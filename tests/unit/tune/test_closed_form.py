"""A readout in closed form: the same in evaluation and bin by bin; gains; damage is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.online import OnlineDecoder, read_units
from ndt3_dist.evaluate.session import evaluate, read_test_data
from ndt3_dist.model.load import load_model
from ndt3_dist.model.readout import FILE, Readout, load_readout
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.rates import fit_rates
from ndt3_dist.tune.tune_config import TuneConfig
from ndt3_dist.upstream.to_ndt3 import to_ndt3

READ = ["train.steps=0", "readout.history=[2]"]


@pytest.fixture
def tune(corpus, tiny_model, tmp_path):
    """The config of a fine-tune with some overrides."""

    def made(*overrides: str) -> TuneConfig:
        overrides = (f"data.corpus={corpus}", f"run.dir={tmp_path}/runs", *overrides)
        config = load_config(TuneConfig, PROJECT / "configs" / "tune_demo.yaml", overrides)
        return config.model_copy(update={"model": tiny_model})

    return made


@pytest.mark.parametrize("keep", [False, True])
def test_bin_by_bin_it_gives_what_evaluation_scores(corpus, tune, keep):
    tuned = finetune(tune(*READ), None)["export"]
    data = read_test_data(corpus, "")
    piece, model, units = data.pieces[0], load_model(tuned), read_units(tuned)
    filters = load_readout(tuned, data.session.id, piece.spikes.shape[1]).filters
    online = OnlineDecoder(model, Layout.of(data.session, model.config), 20, keep, filters)
    found = [online.step(counts) * units.scale for counts in piece.spikes[:40]]
    way = {"context": 20, "stride": 0 if keep else 1, "history": 2}
    whole = evaluate({"model": tuned}, corpus, **way)["predictions"]["model"]
    np.testing.assert_allclose(np.stack(found), whole[:40], rtol=1e-3, atol=1e-4)


def test_hidden_states_are_those_of_the_covariate_head(corpus, tune, tiny_model):
    data, model = read_test_data(corpus, ""), load_model(finetune(tune(*READ), None)["export"])
    layout, piece = Layout.of(data.session, model.config), data.pieces[0]
    hidden = np.empty((len(piece), layout.dims * tiny_model.dim), np.float32)
    covariates, _ = slide(model, piece, layout, 20, 10, hidden=hidden)
    states = hidden.reshape(len(piece), layout.dims, -1)
    head = model.covariate_out
    expected = states @ head.weight.detach().numpy()[0] + head.bias.detach().numpy()
    np.testing.assert_allclose(covariates, expected, rtol=1e-4, atol=1e-5)


def test_rates_are_corrected_to_those_of_the_session():
    draw = np.random.default_rng(0)
    expected = np.exp(draw.normal(-1, 0.5, (3000, 4))).astype(np.float32)
    truth = expected * [1, 3, 1, 0]
    truth[:, 2] = 0.4  # another unit: nothing that is expected of it holds
    counts = draw.poisson(truth).astype(np.uint8)
    gain, power = fit_rates(counts, expected)
    np.testing.assert_allclose(power[:3], [1, 1, 0], atol=0.15)
    np.testing.assert_allclose(gain[:3], [1, 3, 0.4], rtol=0.15)
    found = Readout("a", gain, power).rates(expected)
    np.testing.assert_allclose(found.sum(0), counts.sum(0), rtol=1e-3, atol=1.5)
    constant = fit_rates(counts, np.full_like(expected, 0.2))
    assert all(np.isfinite(part).all() for part in constant)


def test_a_fine_tune_improves_the_prediction_of_spikes_though_their_head_is_frozen(corpus, tune):
    first = finetune(tune(*READ, "run.name=first"), None)["export"]
    result = finetune(tune("train.steps=3", "train.eval_every=3"), first)
    bits = evaluate({"model": result["export"]}, corpus, history=2)["scores"]["model"][
        "bits_per_spike"
    ]
    config = Path(result["export"]) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "readout": None}))
    without = evaluate({"model": result["export"]}, corpus, history=2)["scores"]["model"][
        "bits_per_spike"
    ]
    assert bits > without + 0.01


def _bits_per_spike(export: str, corpus: str) -> float:
    return evaluate({"m": export}, corpus, history=2)["scores"]["m"]["bits_per_spike"]


def _channels(corpus: str) -> int:
    return sum(a.channels for a in read_test_data(corpus, "").session.arrays)


def test_steps_and_a_readout_are_not_both_asked_for(tune):
    with pytest.raises(BadInput, match="not both"):
        tune("readout.history=[2]")
    with pytest.raises(BadInput, match="steps or a readout"):
        tune("train.steps=0")


def test_another_session_has_none_and_damage_is_refused(corpus, tune, tmp_path):
    tuned = Path(finetune(tune(*READ), None)["export"])
    session, channels = read_test_data(corpus, "").session.id, _channels(corpus)
    assert isinstance(load_readout(tuned, session, channels), Readout)
    assert load_readout(tuned, "another", channels) is None
    with pytest.raises(BadInput, match="channels of"):
        load_readout(tuned, session, channels + 1)
    told = json.loads((tuned / "config.json").read_text())
    told["readout"]["shapes"]["offset"] = [7]
    (tuned / "config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointCorrupt, match=r"config\.json has .*; fit it again"):
        load_readout(tuned, session, channels)
    (tuned / FILE).unlink()
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        load_readout(tuned, session, channels)


def test_a_checkpoint_for_upstream_says_that_the_readout_stays_behind(tune, tmp_path, capsys):
    to_ndt3(finetune(tune(*READ), None)["export"], tmp_path / "back.ckpt")
    told = capsys.readouterr()
    assert "its readout stays behind" in told.out + told.err


def test_evaluation_refuses_names_of_its_own_rows_and_bins_that_the_ridge_was_fitted_to(corpus):
    with pytest.raises(BadInput, match="called ridge, as a row of ours is"):
        evaluate({"ridge": "x"}, corpus)
    with pytest.raises(BadInput, match="split test would both fit the ridge and score it"):
        evaluate({"model": "x"}, corpus, split="test", fit_split="test")
    with pytest.raises(CheckpointCorrupt, match=r"no config\.json, so no export"):
        evaluate({"model": corpus}, corpus)

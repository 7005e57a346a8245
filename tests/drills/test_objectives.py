"""Both objectives by one code: two ranks, a resume with one, an export, a fine-tune, a decoder."""

import shutil

import numpy as np
import pytest
from launching import launch, losses

import ndt3_dist
from ndt3_dist.checkpoint.export import export
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.load import load_model
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.objective.identities import TABLE

SMALL = ["model.layers=1", "model.dim=32", "model.heads=2", "model.feedforward=32"]
SMALL += ["model.context=[session,subject,array,task]", "train.max_steps=6"]
SMALL += ["checkpoint.every_steps=3", "validation.every_steps=6", "validation.windows=4"]
SMALL += ["validation.split=test", "data.sessions=['*']"]


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_an_objective_from_ranks_to_a_decoder(corpus, tmp_path, objective):
    extra = [*SMALL, f"model.objective={objective}"]
    code, log = launch(tmp_path / "whole", corpus, 2, extra)
    assert code == 0, log
    shutil.copytree(tmp_path / "whole" / "r", tmp_path / "parts" / "r")
    code, log = launch(tmp_path / "parts", corpus, 1, extra, resume="3")
    assert code == 0, log
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    export(tmp_path / "parts" / "r", tmp_path / "e", None, "fp32")
    model = load_model(tmp_path / "e")
    assert isinstance(model, NDT3)
    assert model.config.objective == objective
    names = model.config.identities
    assert names[:4] == ("session:t-S-01", "subject:t/S", "array:t/S/a0", "task:t")
    assert dict(model.named_parameters())[TABLE].shape == (len(names), 32)
    counts = np.random.default_rng(0).poisson(0.2, (12, 40)).astype(np.uint8)
    decoder = ndt3_dist.open_decoder(tmp_path / "e", "t-S-01", device="cpu")
    assert np.isfinite(decoder.decode(counts)).all()
    tuned = ndt3_dist.fit(
        corpus,
        init=tmp_path / "e",
        out=tmp_path / "tuned",
        train={"steps": 2, "batch": 2, "eval_every": 2},
        data={"val_fraction": 0.03},
    )
    found = evaluate({"m": tuned}, corpus, history=3, context=8)["scores"]["m"]
    assert np.isfinite([found["r2"], found["bits_per_spike"]]).all()

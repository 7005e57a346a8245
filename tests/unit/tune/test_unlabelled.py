"""A decoder adapted to another day by spikes alone: no label of that day has any part in it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_corpus import make_recording, write_corpus

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.session import evaluate
from ndt3_dist.model.load import load_model, read_export_config, read_normalisation
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.parts import part_of
from ndt3_dist.tune.tune_config import TuneConfig

SPLITS = [{"intervals": {"calibration": (0, 0.8), "test": (0.8, 1)}}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A config of a fine-tune of 15-s days, with some overrides."""
    folder = tmp_path_factory.mktemp("unlabelled")
    plain, other, bare = (make_recording(2, 15, [8]) for _ in range(3))
    other.covariates[:] = np.random.default_rng(0).normal(size=other.covariates.shape)
    bare = make_recording(2, 15, [8], dims=0)
    for name, day in (("plain", plain), ("other", other), ("bare", bare)):
        write_corpus(folder / name, [make_recording(1, 15, [8]), day], splits=SPLITS)

    def tune(corpus: str, *overrides: str) -> TuneConfig:
        small = ["model.layers=1", "model.dim=32", "model.heads=2", "model.feedforward=32"]
        small += ["train.steps=3", "train.batch=3", "train.eval_every=1", "optim.lr=3e-3"]
        small += [
            "data.fit=calibration",
            f"data.corpus={folder / corpus}",
            f"run.dir={folder}/runs",
        ]
        return load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", [*small, *overrides])

    return tune


@pytest.fixture(scope="module")
def day_0(made) -> str:
    return finetune(made("plain", "data.session=t-S-01", "run.name=day0"), None)["export"]


SPIKES = "train.objective=spikes", "data.session=t-S-02"


@pytest.fixture(scope="module")
def adapted(made, day_0) -> dict:
    return finetune(made("plain", *SPIKES, "run.name=adapted"), day_0)


def test_no_label_of_the_day_has_any_part_in_it(made, day_0, adapted):
    weights = load_model(adapted["export"]).state_dict()
    for corpus in ("other", "bare"):
        found = finetune(made(corpus, *SPIKES, f"run.name={corpus}"), day_0)
        assert found["score"] == adapted["score"]
        ours = load_model(found["export"]).state_dict()
        assert all(torch.equal(w, ours[name]) for name, w in weights.items())
        norms = [read_normalisation(f["export"])["sessions"] for f in (found, adapted)]
        assert norms[0] == norms[1]


def test_spikes_choose_the_step_and_the_covariate_head_stays(made, day_0, adapted):
    assert adapted["metric"] == "val_bits_per_spike"
    assert math.isnan(adapted["r2_val"])
    lines = read_metrics(Path(adapted["run"]))
    assert adapted["score"] == max(m["val_bits_per_spike"] for m in lines)
    assert not any("val_r2" in m for m in lines)
    assert all(m["loss_covariates"] == 0 for m in lines)
    before = dict(load_model(day_0).named_parameters())
    for name, weight in load_model(adapted["export"]).named_parameters():
        if part_of(name) in ("covariates", "spikes"):
            assert torch.equal(weight, before[name]) == (part_of(name) == "covariates"), name
    trained = read_export_config(adapted["export"])["trained"]
    assert trained["objective"] == "spikes"


def test_it_decodes_in_the_units_of_the_export(made, day_0, adapted):
    theirs = read_normalisation(day_0)["sessions"]["t-S-01"]["covariates"]
    ours = read_normalisation(adapted["export"])["sessions"]
    assert list(ours) == ["t-S-02"]
    assert ours["t-S-02"]["covariates"] == theirs
    corpus = made("plain").data.corpus
    scores = evaluate({"m": adapted["export"]}, corpus, "t-S-02", history=2)["scores"]["m"]
    assert math.isfinite(scores["r2"])


def test_labelled_days_may_be_replayed_beside_it(made, day_0):
    replay = "data.replay.sessions=[t-S-01]", "data.replay.weight=0.5", "run.name=replay"
    found = finetune(made("plain", *SPIKES, *replay), day_0)
    before, after = (load_model(e).covariate_out.weight for e in (day_0, found["export"]))
    assert not torch.equal(before, after)  # labels of that day fit it
    assert any(m["loss_covariates"] > 0 for m in read_metrics(Path(found["run"])))


def test_what_cannot_be_adapted_is_refused(made, day_0, tmp_path):
    with pytest.raises(BadInput, match="adapts a decoder; give the --init EXPORT of one"):
        finetune(made("plain", *SPIKES, "run.name=no"), None)
    with pytest.raises(BadInput, match="adapts a decoder"):
        finetune(made("plain", *SPIKES, "run.name=no"), day_0, scratch=True)
    with pytest.raises(BadInput, match=r"no session 'z'; choose one with data\.decodes=, of t-S"):
        finetune(made("plain", *SPIKES, "run.name=no", "data.decodes=z"), day_0)
    with pytest.raises(BadInput, match="takes those of the export"):
        made("plain", *SPIKES, "data.covariates=[x]")
    with pytest.raises(BadInput, match=r"is for train\.objective spikes"):
        made("plain", "data.decodes=t-S-01")
    read = "train.steps=0", "readout.history=[2]", "run.name=read", "data.session=t-S-01"
    closed = finetune(made("plain", *read), None)["export"]
    with pytest.raises(BadInput, match="by filters that were fitted to it in closed form"):
        finetune(made("plain", *SPIKES, "run.name=no"), closed)
    norms = Path(closed) / "normalisation.json"
    norms.write_text(json.dumps({**json.loads(norms.read_text()), "sessions": {}}))
    with pytest.raises(BadInput, match="decodes no session, so there is nothing to adapt"):
        finetune(made("plain", *SPIKES, "run.name=no"), closed)

"""Validation in real runs: it disturbs nothing, says the truth, and ends a run in time."""

import numpy as np
import pytest
import torch
from launching import losses
from ranks import run_ranks
from small_corpus import make_recording, write_corpus

from ndt3_dist.checkpoint.export import export
from ndt3_dist.checkpoint.steps import open_step, steps_of
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.metrics import r2_variance_weighted
from ndt3_dist.model.load import load_model
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.programs.convert import step_number
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.validation import open_held_out

SHORT = [
    "train.max_steps=8",
    "train.precision=fp32",
]  # so that scores can be made again from the export
OFTEN = ["validation.every_steps=3", "validation.metric=val_r2"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Two sessions to train on, one to validate on, scaled by its first seconds."""
    out = tmp_path_factory.mktemp("held_out") / "c"
    splits = [
        {"match": "*-03", "intervals": {"calibration": (0, 0.2), "val": (0.2, None)}},
        {"match": "*", "intervals": {"train": (0, None)}},
    ]
    sessions = [make_recording(i, 40, [40, 20]) for i in (1, 2, 3)]
    write_corpus(out, sessions, splits=splits)
    return out


def val(folder) -> dict[int, dict]:
    return {
        m["step"]: {k: v for k, v in m.items() if k.startswith("val_") and k != "val_s"}
        for m in read_metrics(folder / "r")
        if "val_loss" in m
    }


def test_validation_changes_no_loss_and_is_alike_at_any_number_of_ranks(held_out, tmp_path):
    for name, ranks, extra in (
        ("without", 2, []),
        ("two", 2, OFTEN),
        ("one", 1, [*OFTEN, "train.zero_stage=3"]),
    ):
        code, log = run_ranks(tmp_path / name, held_out, ranks, [*SHORT, *extra])
        assert code == 0, log
        assert ("validated in" in log) == (name != "without")
    assert losses(tmp_path / "two") == losses(tmp_path / "without")
    found = val(tmp_path / "two")
    assert list(found) == [3, 6, 8]
    for step, of_one in val(tmp_path / "one").items():
        assert found[step] == pytest.approx(of_one, rel=1e-5)
    check_against_the_export(held_out, tmp_path / "one", val(tmp_path / "one")[8])


def check_against_the_export(held_out, folder, found):
    """The same numbers from the exported weights, window by window."""
    export(folder / "r", folder / "e", 8, "fp32", say=lambda _: None)
    model, corpus = load_model(str(folder / "e")), Corpus(str(held_out), ("val",))
    spikes = covariates = num_spikes = num_covariates = 0.0
    true, guessed = [], []
    for number in range(len(corpus)):
        sample = corpus.read(number)
        lists = TokenLists()
        layout = Layout.of(corpus.session_of(number), model.config)
        lists.add(*tokenise(sample, layout, model.config))
        tokens = PackedTokens.from_numpy(lists.pack())
        with torch.no_grad():
            out = model(tokens, 1, 1)
        spikes, covariates = spikes + out.sums[0].item(), covariates + out.sums[1].item()
        num_spikes += sample["spikes"].size
        num_covariates += np.isfinite(sample["covariates"]).sum()
        true.append(sample["covariates"])
        guessed.append(out.details["covariates"].numpy().reshape(sample["covariates"].shape))
    assert found["val_loss_spikes"] == pytest.approx(spikes / num_spikes, rel=1e-5)
    assert found["val_loss_covariates"] == pytest.approx(covariates / num_covariates, rel=1e-5)
    r2 = r2_variance_weighted(np.concatenate(true), np.concatenate(guessed))
    assert found["val_r2"] == found["val_r2/t"] == pytest.approx(r2, abs=1e-5)


def test_a_run_that_gets_no_better_stops_and_its_best_step_is_kept(held_out, tmp_path):
    extra = ["validation.every_steps=1", "validation.patience=3", "checkpoint.keep_last=1"]
    extra += ["optim.lr=0.3", "optim.warmup_epochs=0.5", "train.max_steps=60"]
    code, log = run_ranks(tmp_path, held_out, 2, extra)
    assert code == 0, log
    scores = {step: v["val_loss"] for step, v in val(tmp_path).items()}
    best, last = min(scores, key=scores.__getitem__), max(scores)
    assert last == best + 3 < 60
    assert f"no better val_loss in 3 validations; the best is step {best}" in log
    assert steps_of(tmp_path / "r") == [best, last]
    kept = open_step(tmp_path / "r", last).meta["best"]
    assert kept == {"metric": "val_loss", "step": best, "value": scores[best], "waited": 3}
    assert step_number(tmp_path / "r", "best") == best
    write_report(tmp_path / "r")
    assert "<h2>Validation</h2>" in (tmp_path / "r" / "report.html").read_text()


def test_a_corpus_without_the_split_is_told(corpus, tmp_path):
    code, log = run_ranks(tmp_path, corpus, 1, ["train.max_steps=1", *OFTEN])
    assert code == 0
    assert "has no window in split val" in log
    overrides = [f"data.corpus={corpus}", *OFTEN, "validation.patience=1"]
    config = load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides)
    with pytest.raises(BadInput, match=r"no window in split val, .* validation\.patience needs it"):
        open_held_out(config, Corpus(corpus))

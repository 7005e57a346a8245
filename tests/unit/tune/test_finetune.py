"""Fine-tuning and the report on a small corpus, in one process."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.checkpoint import lineage
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.evaluate.session import evaluate, refuse_seen
from ndt3_dist.model.load import load_model, read_export_config
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import targets
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.programs import evaluate as evaluate_program
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.run_metrics import MetricsFile, Wandb, read_metrics
from ndt3_dist.tune.draws import Windows, draw_windows
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.fit_data import read_fit_data
from ndt3_dist.tune.joint import Joint
from ndt3_dist.tune.tune_config import TuneConfig

NDT3_TARGETS = targets(ModelConfig(layers=1, dim=64, heads=2, feedforward=64))


def tune_config(corpus, folder, *overrides):
    path = PROJECT / "configs" / "stevenson.yaml"
    small = ["model.layers=1", "model.dim=64", "model.heads=2", "model.feedforward=64"]
    small += ["train.steps=4", "train.batch=2", "train.eval_every=2", "data.fit=calibration"]
    small += [f"data.corpus={corpus}", f"run.dir={folder}"]
    return load_config(TuneConfig, path, [*small, *overrides])


def test_a_decoder_is_fitted_exported_and_tuned_again(corpus, tmp_path):
    first = finetune(tune_config(corpus, tmp_path), None)
    again = finetune(tune_config(corpus, tmp_path, "run.name=again"), first["export"])
    scratch = finetune(tune_config(corpus, tmp_path, "run.name=s"), first["export"], True)
    same = finetune(tune_config(corpus, tmp_path, "run.name=s2"), first["export"], True)
    logs = {n: [m["loss"] for m in read_metrics(tmp_path / n)] for n in ("again", "s", "s2")}
    assert logs["s"] == logs["s2"]  # the seed decides everything
    assert logs["s"] != logs["again"]  # weights of the export were used
    assert scratch["r2_val"] == same["r2_val"]
    result = evaluate({"again": again["export"]}, corpus, history=3)
    assert result["scores"]["again"]["bins"] == result["scores"]["ridge"]["bins"] == 550
    assert np.isfinite(result["predictions"]["again"]).all()
    norms = json.loads((tmp_path / "again" / "export" / "normalisation.json").read_text())
    assert list(norms["sessions"]) == ["t-S-03"]
    assert load_model(again["export"]).config.dropout == 0.2
    stages = [lineage.of_export(read_export_config(f["export"])) for f in (again, scratch)]
    assert [len(s) for s in stages] == [2, 1]  # from scratch the export's weights are not used
    assert "epochs" not in read_export_config(again["export"])["trained"]  # draws are no passes
    card = (Path(again["export"]) / "README.md").read_text()
    for number in (1, 2):
        assert f"\n{number}. {stages[0][number - 1]['steps']} steps on split calibration" in card
    for stage in stages[0]:
        assert (stage["corpus"], stage["split"]) == (
            read_manifest(corpus).fingerprint,
            "calibration",
        )
        assert stage["sessions"] == {"t-S-03": read_manifest(corpus).named("t-S-03").source_sha256}


def test_scores_of_what_a_decoder_may_have_seen_are_warned_of(
    corpus, tmp_path, capsys, monkeypatch
):
    tuned = finetune(tune_config(corpus, tmp_path), None)["export"]
    manifest = read_manifest(corpus)
    sha256 = manifest.named("t-S-03").source_sha256
    splits = [{"intervals": {"calibration": (0, 0.3), "test": (0.3, 1)}}]
    for name, source in (("same", sha256), ("other", "7" * 64)):
        recordings = [make_recording(3, 31, [40])]
        write_corpus(tmp_path / name, recordings, splits=splits, source_sha256=source)
    capsys.readouterr()
    evaluate({"tuned": tuned}, corpus, history=3)  # splits of one corpus share no bin
    evaluate({"tuned": tuned}, str(tmp_path / "other"), history=3)
    assert "may have seen" not in capsys.readouterr().err
    evaluate({"tuned": tuned}, str(tmp_path / "same"), history=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tuned} may have seen what it is scored on" in line
    assert f"t-S-03 of corpus {manifest.fingerprint[:12]}, to whose split calibration" in line
    evaluate({"tuned": tuned}, corpus, split="calibration", fit_split="test", history=3)
    assert "may have seen" in capsys.readouterr().err
    same, other = (read_manifest(str(tmp_path / name)) for name in ("same", "other"))
    refuse_seen([tuned], other, other.sessions, "test")
    with pytest.raises(BadInput, match=r"1 of 2 sessions may .*: .*t-S-03 of corpus"):
        refuse_seen([tuned], same, [*same.sessions, *other.sessions], "test")
    words = ["--model", tuned, "--corpus", str(tmp_path / "same"), "--refuse-seen"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    with pytest.raises(BadInput, match="1 of 1 sessions"):
        evaluate_program.main()
    finetune(tune_config(str(tmp_path / "same"), tmp_path, "run.name=on"), tuned)
    assert f"{tuned} may have seen what it is scored on" in capsys.readouterr().err


def test_fine_tuning_never_overwrites_a_run_and_needs_something_to_start_from(corpus, tmp_path):
    (tmp_path / "stevenson").mkdir()
    (tmp_path / "stevenson" / "mine.txt").write_text("x")
    with pytest.raises(ResumeMismatch, match="the run exists"):
        finetune(tune_config(corpus, tmp_path), None)
    config = tune_config(corpus, tmp_path, "run.name=n").model_copy(update={"model": None})
    with pytest.raises(BadInput, match="nothing to start from"):
        finetune(config, None)
    assert not (tmp_path / "n").exists()


def test_the_held_back_part_is_never_drawn(corpus, tmp_path):
    config = tune_config(corpus, tmp_path)
    data = read_fit_data(config)
    last_start = data.last[0].start_bin
    assert data.first[0].start_bin + len(data.first[0]) == last_start
    windows = Windows(Joint([data]), config.model)
    draws = [draw_windows(windows, 4, generator("t", i))[0] for i in range(3)]
    assert all((np.diff(d["cu_seqlens"]) == 100 * 4).all() for d in draws)
    assert any((draws[0]["spikes"] != draws[1]["spikes"]).ravel())


def test_a_report_is_one_self_contained_page(corpus, tmp_path):
    with pytest.raises(BadInput, match=r"no metrics\.jsonl"):
        write_report(tmp_path)
    metrics = MetricsFile(tmp_path, 0, NDT3_TARGETS)
    line = dict.fromkeys(("loss", "loss_spikes", "loss_covariates", "grad_norm", "lr"), 0.5)
    for step in (1, 2, 3):
        metrics.write(step, {**line, "tokens": 10, "step_s": 0.1, "wait_s": 0.0})
    metrics.close()
    page = Path(write_report(tmp_path, read_manifest(corpus), None, {"a": "<b>"})).read_text()
    assert "&lt;b&gt;" in page
    assert "t-S-03" in page
    assert page.count("<svg") == 6
    assert not re.search(r"(src|href|url|@import)\s*[=(]", page)
    assert "<script" not in page
    scores = {"model": {"r2": 0.875, "bins": 40}}
    evaluation = {"session": "t-S-03", "bin_ms": 20.0, "dims": ["x (cm/s)"], "scores": scores}
    traces = {"truth": np.zeros((40, 1)), "predictions": {"model": np.ones((40, 1))}}
    first = Path(write_report(tmp_path, None, {**evaluation, **traces})).read_text()
    assert "0.875" in first
    # Written again at any time, the page keeps what was decoded.
    assert Path(write_report(tmp_path)).read_text() == first
    (tmp_path / "evaluation.npz").write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"evaluation\.npz: not an evaluation"):
        write_report(tmp_path)


def test_a_wandb_that_goes_down_is_said_once_and_stops_nothing(tmp_path, capsys):
    class Down:
        def log(self, *_, **__):
            raise ConnectionError("no route")

    wandb = Wandb(load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml"), tmp_path)
    wandb.run = Down()  # type: ignore[assignment]
    for step in (1, 2):
        wandb.write(step, {"loss": 1.0})
    wandb.close()
    assert capsys.readouterr().err.count("W&B could not log (no route)") == 1


def test_metrics_behind_the_restored_step_and_a_torn_line_are_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    metrics = MetricsFile(tmp_path, 2, NDT3_TARGETS)
    metrics.write(3, {"loss": 1.0})
    metrics.close()
    assert [m["step"] for m in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_metrics(tmp_path)[-1]["loss"] == 1.0

"""Decoders fitted to the recordings of a corpus, and the folder that is submitted."""

import json
import re
import sys

import pytest
from dockerfile import instructions
from falcon_files import MODEL, public_name, write_fit
from small_corpus import make_recording, write_corpus

from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.programs.tasks import falcon as program
from ndt3_dist.tasks.falcon import submission
from ndt3_dist.tasks.falcon.fitted import read_fitted
from ndt3_dist.tasks.falcon.movement import fit_movement
from ndt3_dist.tasks.falcon.submission import build_submission, requirements
from ndt3_dist.tasks.falcon.tags import TASKS

TASK = TASKS["m2"]
SPLITS = [
    {"match": "*held_out*", "intervals": {"calibration": (0, 1)}},
    {"intervals": {"train": (0, 0.8), "test": (0.8, 1)}},
]
FIRST, OUT = TASK.held_in[0], TASK.held_out[0]
FAST = ["train.steps=2", "train.batch=1", "train.eval_every=2", "train.precision=fp32"]
FAST += [f"model.{k}={v}" for k, v in MODEL.model_dump().items() if k in ("layers", "dim", "heads")]
FAST += ["model.feedforward=32", "model.context_tokens=false"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A held-in recording, a held-out one by its calibration and by its oracle file."""
    made = []
    for tag, split in ((FIRST, "calib"), (OUT, "calib"), (OUT, "oracle")):
        recording = make_recording(len(made), 14, [96])
        recording.session = public_name(TASK, tag, split).removesuffix(".nwb")
        made.append(recording)
    out = tmp_path_factory.mktemp("falcon") / "m2"
    write_corpus(out, made, splits=SPLITS)
    return str(out)


def test_each_recording_is_fitted_and_an_interrupted_fit_goes_on(corpus, tmp_path):
    def fit(mode, *only):
        return fit_movement(TASK, mode, corpus, None, tmp_path, overrides=FAST, only=only)

    first = fit("few-shot", FIRST)
    assert [*first.decoders] == [FIRST]
    weights = tmp_path / first.decoders[FIRST].export / "model.safetensors"
    before = weights.stat().st_mtime_ns
    both = fit("few-shot", FIRST, OUT)
    assert weights.stat().st_mtime_ns == before  # it was there
    assert [*both.decoders] == [FIRST, OUT]
    assert read_fitted(tmp_path) == both
    assert both.decoders[OUT].session.endswith("calib_ses_2020_10_30_Run1_behavior_ecephys")
    settings = [
        json.loads((tmp_path / "fits" / t / "config.json").read_text()) for t in (FIRST, OUT)
    ]
    assert [s["data"]["fit"] for s in settings] == ["train", "calibration"]


def test_a_fit_with_other_settings_is_not_taken_for_this_one(corpus, tmp_path):
    def fit(mode, *more):
        where = TASK, mode, corpus, None, tmp_path
        return fit_movement(*where, overrides=[*FAST, *more], only=[OUT])

    fit("few-shot")
    with pytest.raises(ResumeMismatch, match=r"Run1_20201030: .* \(optim differ\)"):
        fit("few-shot", "optim.lr=1e-5")
    with pytest.raises(ResumeMismatch, match=r"\(data differ\)"):
        fit("oracle")


def test_zero_shot_takes_the_last_held_in_decoder_and_oracle_other_files(corpus, tmp_path):
    where = TASK, "zero-shot", corpus, None, tmp_path / "z"
    fitted = fit_movement(*where, overrides=FAST, only=[FIRST])
    assert {fitted.decoders[tag] for tag in TASK.held_out} == {fitted.decoders[FIRST]}
    where = TASK, "oracle", corpus, None, tmp_path / "o"
    fitted = fit_movement(*where, overrides=FAST, only=[OUT])
    assert "oracle" in fitted.decoders[OUT].session


def test_recordings_that_a_corpus_lacks_are_named(corpus, tmp_path):
    with pytest.raises(BadInput, match=r"lacks Run2_20201019, .*which few-shot fits to"):
        fit_movement(TASK, "few-shot", corpus, None, tmp_path, overrides=FAST)
    write_corpus(tmp_path / "c", [make_recording(1, 14, [8])], splits=SPLITS)
    with pytest.raises(BadInput, match=r"'01' is no session of FALCON m2"):
        fit_movement(TASK, "few-shot", str(tmp_path / "c"), None, tmp_path, only=[FIRST])
    recording = make_recording(1, 14, [8])
    recording.session = FIRST
    write_corpus(tmp_path / "d", [recording], splits=SPLITS)
    with pytest.raises(BadInput, match=r"has 8 channels, FALCON m2 has 96; prepare it with falcon"):
        fit_movement(TASK, "few-shot", str(tmp_path / "d"), None, tmp_path, only=[FIRST])


def test_a_submission_has_what_its_dockerfile_copies_and_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "try_copy", lambda out: None)  # a drill runs it
    fit = write_fit(tmp_path / "fit", "m2")
    lines = build_submission(fit, tmp_path / "out")
    assert any(line.startswith("fits/0/model.safetensors  ") for line in lines)
    steps = instructions("falcon.Dockerfile")
    assert (tmp_path / "out" / "Dockerfile").read_text().count("\nCOPY ") == 2
    copied = [words.split()[0] for name, words in steps if name == "COPY"]
    assert all((tmp_path / "out" / name).exists() for name in copied)
    told = " ".join(words for name, words in steps if name == "ENV")
    for name in ("EVAL_DATA_PATH", "PREDICTION_PATH", "PREDICTION_PATH_LOCAL", "GT_PATH"):
        assert f"{name}=/" in told
    (command,) = [json.loads(words)[2] for name, words in steps if name == "CMD"]
    values = dict(re.findall(r"(\w+)=(\S+)", told))
    typed = re.sub(r"\$(\w+)", lambda m: values[m[1]], command).split()
    assert typed[:3] == ["python", "decode.py", "run"]
    asked = {}
    monkeypatch.setattr(program, "run_part", lambda args: asked.update(vars(args)))
    monkeypatch.setattr(sys, "argv", typed[1:])
    program.main()
    assert (asked["folder"], asked["evaluation"], asked["phase"]) == (".", "remote", "test")
    wanted = (tmp_path / "out" / "requirements.txt").read_text().split()
    assert wanted == [*requirements(), "falcon-challenge==1.0.2"]
    with pytest.raises(BadInput, match="exists and is not empty"):
        build_submission(fit, tmp_path / "out")


def test_a_submission_that_lacks_recordings_or_does_not_run_is_refused(tmp_path, monkeypatch):
    fit = write_fit(tmp_path / "fit", "m2")
    text = (fit / "falcon.json").read_text()
    (fit / "falcon.json").write_text(text.replace(OUT, "elsewhere"))
    with pytest.raises(BadInput, match=rf"nothing decodes {OUT} of FALCON m2"):
        build_submission(fit, tmp_path / "out")
    (fit / "falcon.json").write_text(text)
    monkeypatch.setattr(submission, "SCRIPT", "raise SystemExit('error: no weights')")
    with pytest.raises(BadInput, match="its decoder does not run there: error: no weights"):
        build_submission(fit, tmp_path / "out")


def test_arguments_of_another_kind_of_task_are_refused(monkeypatch):
    for typed, said in (
        (["fit", "m2", "--out", "o", "--data", "d"], "m2 is fitted to a corpus"),
        (["fit", "m2", "--out", "o", "--corpus", "c", "--hidden", "8"], "m2 is fitted to a corpus"),
        (["fit", "h2", "--out", "o", "--corpus", "c"], "h2 is fitted to NWB files"),
        (["fit", "b1", "--out", "o"], "no FALCON task 'b1'"),
        (["evaluate", "folder", "--data", "d", "train.steps=2"], "train.steps=2: only fit takes"),
        (["fit", "m2", "--out", "o", "--corpus", "c", "--step", "8"], "--step: no option of fit"),
    ):
        monkeypatch.setattr(sys, "argv", ["falcon", *typed])
        with pytest.raises(BadInput, match=said):
            program.main()

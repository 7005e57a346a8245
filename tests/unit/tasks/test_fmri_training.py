"""Encoders on films with a planted delay: what they reach, and that runs repeat to the last bit."""

import json
import shutil
from pathlib import Path

import fmri_files as files
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ndt3_dist import load_model
from ndt3_dist.config import load_config
from ndt3_dist.data.order import seed_of
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.bold_predict import Member, predict_clips, weights_of
from ndt3_dist.tasks.fmri.clips.sample_numbers import read_samples
from ndt3_dist.tasks.fmri.encoder_page import Look, write_page
from ndt3_dist.tasks.fmri.encoders import clip_fit, encode
from ndt3_dist.tasks.fmri.encoders.bold_loss import mse_sums, pearson_sums
from ndt3_dist.tasks.fmri.encoders.build import build
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.clip_steps import ClipSteps
from ndt3_dist.tasks.fmri.encoders.encoder import pack
from ndt3_dist.tasks.fmri.encoders.parcel_r import ParcelR
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.tasks.fmri.parcel_score import score

VIBE = {**{f"s{i}": 4982 for i in range(12)}, "last": 4984}
"""As many streams and columns as VIBE's model1 has: 13 and 64,768."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return files.write_tree(tmp_path_factory.mktemp("fmri"))


def config(root: Path, name: str, train: dict | None = None, **model) -> FmriConfig:
    values = files.settings(root, **model)
    values["run"]["name"] = name
    values["train"] |= train or {}
    return FmriConfig.model_validate(values)


@pytest.fixture(scope="module")
def runs(root) -> dict[str, Path]:
    """A ridge without lags, one with them, and the default encoder, retrained."""
    found = {}
    for name, model in {
        "still": {"kind": "ridge", "lags": [0]},
        "ridge": {"kind": "ridge"},
        "conv": {"width": 32},
    }.items():
        values = config(root, name, {"epochs": 14}, **model).model_dump(mode="json")
        values["optim"]["lr"] = 0.03
        found[name] = Path(encode.train(FmriConfig.model_validate(values))["run"])
        if name != "still":
            encode.retrain(found[name])
    return found


def withheld(root: Path, *members: Member) -> float:
    """The score of Friends' season 7."""
    samples = read_samples(root / "data", files.SUBJECTS, ["s07"])
    return score(predict_clips(members, samples), files.truth_of(files.WITHHELD[:2])).value


def test_the_delay_is_found_by_lags_and_the_default_is_at_least_the_ridge(root, runs):
    still, ridge, conv = (withheld(root, Member.open(runs[n])) for n in runs)
    assert abs(still) < 0.1
    assert ridge > 0.7  # much above the .3 that lags have to give
    assert conv >= ridge - 0.005
    both = withheld(root, Member.open(runs["ridge"]), Member.open(runs["conv"]))
    assert both > min(ridge, conv)


def test_held_out_films_are_kept_by_parcel_and_weigh_members(runs):
    kept = {n: np.load(run / "val.npz") for n, run in runs.items()}
    assert set(kept["conv"].files) == set(files.SUBJECTS)
    assert kept["conv"]["sub-02"].shape == (files.PARCELS,)
    members = [Member.open(runs[n]) for n in ("still", "conv")]
    weights = weights_of(members, "sub-01", temperature=0.3)
    np.testing.assert_allclose(weights.sum(0), 1)  # over models, not over parcels
    assert (weights[1] > weights[0]).all()
    assert weights_of(members, "sub-01", float("inf")) == pytest.approx(0.5)


def test_a_member_of_large_numbers_weighs_no_more(root, runs):
    samples = {"sub-03": {"s07e01a": 99}}
    members = [Member.open(runs["ridge"]), Member.open(runs["conv"])]
    before = predict_clips(members, samples)["sub-03"]["s07e01a"]
    with torch.no_grad():
        members[0].model.weights.mul_(1000)
        members[0].model.offset.add_(5)
    after = predict_clips(members, samples)["sub-03"]["s07e01a"]
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_one_subject_alone_is_trained_and_predicted(root):
    values = config(root, "one", kind="ridge").model_dump(mode="json")
    values["data"]["subjects"] = ["sub-03"]
    run = Path(encode.train(FmriConfig.model_validate(values))["run"])
    found = predict_clips([Member.open(run, "cpu")], {"sub-03": {"s07e01a": 99}})
    assert found["sub-03"]["s07e01a"].shape == (99, files.PARCELS)


def test_a_member_must_know_subjects_and_streams(root, runs):
    with pytest.raises(BadInput, match=r"knows sub-01, .*asked for sub-09"):
        predict_clips([Member.open(runs["ridge"])], {"sub-09": {"s07e01a": 90}})
    member = Member.open(runs["ridge"])
    streams = {**member.config.data.streams, "text": "text#layers.30"}
    data = member.config.data.model_copy(update={"streams": streams})
    member.config = member.config.model_copy(update={"data": data})
    with pytest.raises(BadInput, match="was trained on"):
        predict_clips([member], {"sub-01": {"s07e01a": 90}})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(str(run / "export" / "model.safetensors"))


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in {*one, *other})


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_stopped_goes_on_to_the_same_bits_and_so_does_its_retraining(root):
    short = {"epochs": 3, "patience": 0}
    whole = Path(encode.train(config(root, "whole", short, stream_dropout=0.3))["run"])
    encode.retrain(whole)
    cut = config(root, "cut", short, stream_dropout=0.3)
    assert encode.train(cut, until=4)["stopped"] == "rank 0: step 4"
    with pytest.raises(BadInput, match="no run that has ended"):
        encode.retrain(root / "runs" / "cut")
    path = Path(encode.train(cut)["run"])
    assert [line["step"] for line in lines(path)] == list(range(1, 10))
    assert same(weights(path), weights(whole))
    assert encode.retrain(path, until=2)["stopped"] == "rank 0: step 2"
    encode.retrain(path)
    assert same(weights(path / "retrain"), weights(whole / "retrain"))
    assert not same(weights(path / "retrain"), weights(path))


def first_loss(run: Path) -> float:
    """Of a first step on all clips, by the weights that lie in the run's folder as initial."""
    settings = load_config(FmriConfig, run / "fmri.yaml")
    source = encode.open_source(settings)
    model = build(settings.model.options(source))
    model.load_state_dict(load_file(str(run / "initial.safetensors")))
    scales = ClipScales.kept(source, run / "scales.npz", (), True)
    arrays = ClipSteps(scales, model, source.clips, 8, 48, settings.run.seed).load(0)
    torch.manual_seed(seed_of("dropout", settings.run.seed, 1))
    out = model(model.batch(arrays, torch.device("cpu")), 1, 1)
    count = np.isfinite(arrays["bold"]).sum()
    return sum(float(s) for s in out.sums) / count


def test_retraining_takes_the_best_epochs_from_the_initial_weights(root):
    run = Path(encode.train(config(root, "again", {"epochs": 3}, stream_dropout=0.2))["run"])
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "best_epoch": 2}))
    moved = load_file(str(run / "initial.safetensors"))
    moved["head.offset"] += 1  # whatever lies there is what it begins with
    save_file(moved, str(run / "initial.safetensors"))
    encode.retrain(run)
    steps = lines(run / "retrain")
    assert [line["epochs"] for line in steps][-1] < 2 <= steps[-1]["step"] / (len(steps) / 2)
    assert steps[0]["loss"] == pytest.approx(first_loss(run), rel=1e-5)
    first = weights(run / "retrain")
    shutil.rmtree(run / "retrain")
    encode.retrain(run)
    assert same(first, weights(run / "retrain"))
    # The learning rate falls over the epochs of the training, not over those of the retraining.
    assert steps[-1]["lr"] > 0.2 * steps[0]["lr"]


def test_weights_are_averaged_over_the_last_epochs(root):
    kept = {}

    def spy(every):
        kept["every"] = every
        return mean(every)

    mean = clip_fit.mean_weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_fit, "mean_weights", spy)
        train = {"epochs": 4, "average_from": 0.5, "patience": 0}
        run = Path(encode.train(config(root, "mean", train))["run"])
    assert len(kept["every"]) == 3  # the ends of epochs 2, 3 and 4
    found = weights(run)["head.shared.weight"]
    want = torch.stack([w["head.shared.weight"] for w in kept["every"]]).double().mean(0)
    assert torch.equal(found, want.float())
    assert not list((run / "epochs").iterdir())


def test_what_a_run_has_learned_is_shown(root, runs, tmp_path):
    look = Look(runs["conv"])
    lags = look.by_lag()
    assert max(lags, key=lambda lag: lags[lag]) == 0
    still = Look(runs["still"])
    with torch.no_grad():  # what is seen now predicts now: BOLD follows three to four samples later
        weights = Look(runs["ridge"]).model.weights[:, 45:60]  # of lag 3 alone
        still.model.weights.copy_(weights)
    lags = still.by_lag()
    assert max(lags, key=lambda lag: lags[lag]) == 3
    lost = look.without_stream()
    assert set(lost) == set(files.DIMS)
    assert min(lost.values()) > 0.02
    assert look.without_stream() == lost  # and nothing stays left out
    ceiling = look.ceiling()
    assert set(ceiling) == set(files.SUBJECTS)
    assert 0.5 < ceiling["sub-01"].mean() < 1
    networks = ["Vis"] * 4 + ["Default"] * 4
    page, scored = write_page(runs["conv"], tmp_path, networks)
    text = page.read_text()
    assert f"{scored.value:.4f}" in text
    assert "the best lag of its predictions is 0 samples" in text
    assert all(word in text for word in ("Vis", "Default", "Noise ceiling", "without it"))


def test_an_export_loads_by_itself(runs):
    model = load_model(runs["conv"] / "retrain" / "export", build=build)
    assert model.dims == files.DIMS


@pytest.mark.parametrize(
    ("streams", "parameters"),
    [(VIBE, 329), ({**VIBE, "french": 1024}, 375), ({f"s{i}": 4403 for i in range(20)}, 722)],
)
def test_the_fusion_transformer_has_the_size_of_vibes(streams, parameters):
    options = {"kind": "fusion_transformer", "streams": streams, "parcels": 1000}
    options |= {"subjects": ["sub-01", "sub-02", "sub-03", "sub-05"]}
    with torch.device("meta"):
        found = sum(p.numel() for p in build(options).parameters())
    assert round(found / 1e6) == parameters


def test_the_fusion_transformer_sees_no_padding_and_no_other_window():
    options = {"kind": "fusion_transformer", "streams": {"a": 3, "b": 2}, "parcels": 4}
    options |= {"subjects": ["x", "y"], "hidden": 8, "heads": 2, "fusion_heads": 2, "layers": 1}
    torch.manual_seed(0)
    model, draw = build(options).eval(), np.random.default_rng(0)
    windows = [
        (draw.normal(size=(n, 5)).astype(np.float32), np.zeros((n, 8), np.float32)) for n in (9, 6)
    ]

    def predicted(some):
        batch = model.batch(model.packing([]).pack(some), torch.device("cpu"))
        with torch.no_grad():
            return model.predictions(model(batch, 1), some)

    both = predicted(windows)
    alone = predicted(windows[1:])
    np.testing.assert_allclose(both[1]["pearson"], alone[0]["pearson"], atol=1e-5)
    assert both[0]["pearson"].shape == (9, 8)


def test_losses_leave_out_padding_and_what_was_not_recorded():
    draw = np.random.default_rng(0)
    true = torch.from_numpy(draw.normal(size=(2, 30, 2, 3))).float()
    valid = torch.ones_like(true, dtype=torch.bool)
    valid[0, 20:] = False  # padding
    valid[1, :, 1] = False  # a subject that lacks the run
    found = pearson_sums(3 * true + 2, torch.where(valid, true, torch.nan), valid)
    assert (found / valid.flatten(1).sum(1)).tolist() == pytest.approx([-1, -1], abs=1e-5)
    guess = torch.from_numpy(draw.normal(size=true.shape)).float()
    r = [
        np.corrcoef(guess[w, :n, s, p], true[w, :n, s, p])[0, 1]
        for w, n, subjects in ((0, 20, (0, 1)), (1, 30, (0,)))
        for s in subjects
        for p in range(3)
    ]
    rows = np.repeat([20, 30], [6, 3])
    found = pearson_sums(guess, torch.where(valid, true, torch.nan), valid)
    assert -float(found.sum()) == pytest.approx(float((np.array(r) * rows).sum()), rel=1e-4)
    error = mse_sums(guess, torch.where(valid, true, torch.nan), valid)
    assert float(error[0]) == pytest.approx(float((guess - true)[0, :20].square().sum()), rel=1e-5)
    still = torch.zeros(1, 9, 1, 1, requires_grad=True)
    pearson_sums(
        still, true[:1, :9, :1, :1], torch.ones(1, 9, 1, 1, dtype=torch.bool)
    ).sum().backward()
    assert still.grad is not None
    assert torch.isfinite(still.grad).all()


def test_counts_follow_from_the_index_and_a_window_keeps_a_stream():
    options = {
        "streams": {"a": 3, "b": 2},
        "parcels": 4,
        "subjects": ["x"],
        "width": 4,
        "kernel": 3,
    }
    model = build({**options, "stream_dropout": 0.9, "mse": 0.1, "pearson": 1})
    kept = model.kept_streams(500, torch.device("cpu"))
    assert kept.any(1).all()
    assert 0.05 < float(kept.float().mean()) < 0.65
    index = np.zeros(2, [("bins", "i4"), ("bold", [("values", "i8")])])
    index["bold"]["values"] = [12, 7]
    assert model.packing([]).counts(index).tolist() == [[12, 12], [7, 7]]
    bold = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    bold[4:, 1] = np.nan
    batch = model.batch(pack([(np.ones((6, 5), np.float32), bold)]), torch.device("cpu"))
    out = model(batch, 22, 22)
    assert model.by_segment(out, batch).sum(0).tolist() == pytest.approx(out.sums.tolist())


def test_r_of_parcels_adds_up_over_windows():
    draw, metric = np.random.default_rng(0), ParcelR()
    true, found = draw.normal(size=(2, 50, 4))
    true[10:20, 1] = np.nan
    true[:, 3] = np.nan
    parts = [metric.sums(true[a:b], found[a:b]) for a, b in ((0, 15), (15, 50))]
    known = np.isfinite(true)
    r = [np.corrcoef(true[known[:, i], i], found[known[:, i], i])[0, 1] for i in range(3)]
    assert metric.scores(sum(parts))["r"] == pytest.approx(np.mean(r))


def test_what_cannot_be_trained_is_said(root):
    with pytest.raises(BadInput, match=r"model\.kind: no 'rigde' \(did you mean ridge\?\)"):
        build({"kind": "rigde"})
    options = {"streams": {"a": 64_768}, "parcels": 8, "subjects": ["x"]}
    with pytest.raises(BadInput, match="ridge of 518,144 columns"):
        build({**options, "kind": "ridge"})
    with pytest.raises(BadInput, match="kernel is 4"):
        build({**options, "kernel": 4})
    values = files.settings(root)
    values["data"]["val"] = ["s09"]
    with pytest.raises(BadInput, match="0 held out"):
        encode.train(FmriConfig.model_validate(values))
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="torch sees no GPU"):
            encode.train(config(root, "gpu", {"device": "cuda"}))

"""Recordings of several sessions and lengths decoded together, as FALCON's evaluator asks."""

import json

import numpy as np
import pytest
import torch
from falcon_files import session_of, write_fit, write_random_export
from safetensors.torch import load_file, save_file

from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.tasks.falcon.decoder import How, MovementDecoder
from ndt3_dist.tasks.falcon.fitted import Decodes, Fitted, read_fitted, write_fitted
from ndt3_dist.tasks.falcon.scoring import moved
from ndt3_dist.tasks.falcon.served import Served
from ndt3_dist.tasks.falcon.tags import TASKS

TASK = TASKS["m2"]
TAGS = ["Run1_20201019", "Run2_20201019", "Run1_20201030"]
FP32 = How(kind="fp32")


def fit_of(folder, by: dict[str, Decodes]):
    write_fitted(folder, Fitted(task="m2", mode="few-shot", decoders=by))
    return folder


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    return write_fit(tmp_path_factory.mktemp("falcon") / "fit", "m2")


@pytest.fixture(scope="module")
def shared(fit):
    """The same exports; the first and the last recording are decoded by one under one scale."""
    by = read_fitted(fit).decoders
    folder = fit.parent / "shared"
    folder.mkdir()
    (folder / "fits").symlink_to(fit / "fits")
    return fit_of(folder, {TAGS[0]: by[TAGS[0]], TAGS[1]: by[TAGS[1]], TAGS[2]: by[TAGS[0]]})


def served(tag: str, bins: int, seed: int) -> Served:
    counts = np.random.default_rng(seed).poisson(2, (bins, 96)).astype(np.uint8)
    empty = np.zeros(bins, bool)
    return Served(tag, counts, empty, np.zeros((bins, 2)), empty)


@pytest.mark.parametrize("how", [FP32, How(keep=False)], ids=["kept", "recomputed"])
def test_a_batch_of_sessions_and_lengths_is_each_of_them_alone(shared, how):
    batch = [served(tag, bins, bins) for tag, bins in zip(TAGS, (30, 12, 25), strict=True)]
    decoder = MovementDecoder(shared, how=how)
    together, _ = moved(decoder, batch)
    assert [group.places for group in decoder.groups] == [[0, 2], [1]]
    alone = [moved(MovementDecoder(shared, 1, how), [s])[0][0] for s in batch]
    for one, other, recording in zip(together, alone, batch, strict=True):
        assert one.shape == (len(recording.counts), 2)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert one.std(axis=0).min() > 1e-3


def test_each_recording_has_the_scale_of_its_session(fit):
    both = [served(tag, 10, 3) for tag in TAGS[1:]]
    assert len({read_fitted(fit).decoders[s.tag].export for s in both}) == 1
    one, other = (moved(MovementDecoder(fit, 1, FP32), [s])[0][0] for s in both)
    scales = [session_of(TASK, TASK.tags.index(s.tag))["covariates"] for s in both]
    scales = [np.array([c["scale"] for c in found]) for found in scales]
    np.testing.assert_allclose(one / scales[0], other / scales[1], rtol=1e-12)
    assert not np.allclose(one, other)


def test_keys_kept_are_the_window_recomputed_until_it_is_full(fit):
    (kept,), _ = moved(MovementDecoder(fit, how=FP32), [served(TAGS[0], 30, 1)])
    (anew,), _ = moved(MovementDecoder(fit, how=How(keep=False)), [served(TAGS[0], 30, 1)])
    np.testing.assert_allclose(kept[:20], anew[:20], rtol=1e-4, atol=1e-5)
    assert not np.allclose(kept[21:], anew[21:], rtol=1e-4, atol=1e-5)


def test_a_reset_and_the_end_of_a_trial_forget_what_was(shared):
    both = [TAGS[0], TAGS[2]]
    counts = np.random.default_rng(0).poisson(2, (8, 2, 96)).astype(np.uint8)
    continual, trials = (MovementDecoder(shared, how=FP32, trials=t) for t in (False, True))
    found = {}
    for name, decoder in (("continual", continual), ("trials", trials)):
        decoder.reset(both)
        for _ in range(4):
            decoder.observe(counts[0])
        decoder.on_done(np.array([1, 0]))  # the first one alone
        found[name] = decoder.predict(counts[1])
        decoder.reset(both)
        found[f"{name} anew"] = decoder.predict(counts[1])
    assert np.array_equal(found["trials"][0], found["trials anew"][0])
    np.testing.assert_allclose(found["trials"][1], found["continual"][1], rtol=1e-4)
    for place in (0, 1):
        assert not np.allclose(found["continual"][place], found["continual anew"][place])


def test_tags_channels_and_counts_that_cannot_be_are_refused(fit):
    decoder = MovementDecoder(fit)
    with pytest.raises(BadInput, match=r"'Run9_20201019' is no session of FALCON m2"):
        decoder.reset(["Run9_20201019"])
    decoder.reset(TAGS[:2])
    for counts in (np.zeros((2, 95)), np.zeros((3, 96)), np.zeros(96)):
        with pytest.raises(BadInput, match=r"expected \(2, 96\)"):
            decoder.predict(counts)
    for value in (np.nan, -1, 0.5):
        with pytest.raises(BadInput, match="no counts"):
            decoder.predict(np.full((2, 96), value))
    assert decoder.predict(np.zeros((2, 96), np.float64)).shape == (2, 2)
    with pytest.raises(BadInput, match="batch size 0"):
        decoder.set_batch_size(0)


def test_a_recording_that_nothing_was_fitted_for_is_named(tmp_path):
    write_random_export(tmp_path / "e", {"s": session_of(TASK, 0)})
    decoder = MovementDecoder(fit_of(tmp_path, {TAGS[0]: Decodes(export="e", session="s")}))
    with pytest.raises(BadInput, match=rf"nothing was fitted that decodes {TAGS[1]} .*{TAGS[0]}"):
        decoder.reset([TAGS[1]])


def test_a_normaliser_that_is_missing_or_of_another_task_is_named_at_once(tmp_path):
    write_random_export(
        tmp_path / "e", {"s": session_of(TASK, 0), "m1": session_of(TASKS["m1"], 0)}
    )
    with pytest.raises(BadInput, match="no session 'other'"):
        MovementDecoder(fit_of(tmp_path, {TAGS[0]: Decodes(export="e", session="other")}))
    with pytest.raises(BadInput, match=rf"session m1, which is to decode {TAGS[0]}, has 16 covar"):
        MovementDecoder(fit_of(tmp_path, {TAGS[0]: Decodes(export="e", session="m1")}))
    (tmp_path / "e" / "normalisation.json").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"normalisation\.json: cannot be read"):
        MovementDecoder(fit_of(tmp_path, {TAGS[0]: Decodes(export="e", session="s")}))


def test_a_prediction_that_is_no_number_is_named(tmp_path):
    folder = write_random_export(tmp_path / "e", {"s": session_of(TASK, 0)})
    weights = load_file(folder / "model.safetensors")
    weights["covariate_out.bias"] = torch.full_like(weights["covariate_out.bias"], 3e38)
    save_file(weights, folder / "model.safetensors")
    norms = json.loads((folder / "normalisation.json").read_text())
    for covariate in norms["sessions"]["s"]["covariates"]:
        covariate["scale"] = 1e300
    (folder / "normalisation.json").write_text(json.dumps(norms))
    decoder = MovementDecoder(fit_of(tmp_path, {TAGS[0]: Decodes(export="e", session="s")}))
    decoder.reset([TAGS[0]])
    decoder.observe(np.zeros((1, 96), np.uint8))
    with pytest.raises(CheckpointCorrupt, match=rf"{TAGS[0]}, bin 1: the prediction is not finite"):
        decoder.predict(np.zeros((1, 96), np.uint8))


def test_a_fit_reaches_no_folder_outside_of_it(tmp_path):
    (tmp_path / "falcon.json").write_text(
        '{"task": "m2", "mode": "few-shot", "decoders": {"Run1_20201019": {"export": "../../x"}}}'
    )
    with pytest.raises(CheckpointCorrupt, match="expected a folder below"):
        read_fitted(tmp_path)
    with pytest.raises(BadInput, match=r"no falcon\.json"):
        read_fitted(tmp_path / "none")

"""Scores from sums over windows are those of all bins together; which checkpoints are kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from saves import save, writers

from ndt3_dist.checkpoint.steps import prune, remove_remnants, set_aside, step_folder, steps_of
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.order import generator
from ndt3_dist.evaluate.metrics import bits_per_spike, r2_flat, r2_variance_weighted
from ndt3_dist.model.tokenise import Layout, tokenise
from ndt3_dist.shards.corpus import Sample
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.saving import Saving
from ndt3_dist.train.validation import Best, bits_of, likelihood, moments, r2_of, rows_of

NAN = float("nan")


@pytest.fixture(params=range(6))
def windows(request, tiny_model):
    """(arrays, layout, true covariates, counts) of windows of one session."""
    draw = generator("validation test", request.param)
    channels, dims = int(draw.integers(1, 150)), int(draw.integers(1, 4))
    layout, found = Layout.from_counts([channels], dims, tiny_model, "s"), []
    for _ in range(5):
        bins = int(draw.integers(1, 60))
        spikes = draw.poisson(0.2, (bins, channels)).astype(np.uint8)
        true = draw.uniform(-0.9, 0.9, (bins, dims)).astype(np.float32)
        true[draw.random(true.shape) < 0.1] = NAN
        arrays, _ = tokenise(Sample(spikes, true), layout, tiny_model)
        found.append((arrays, layout, true, spikes))
    return draw, found


def test_r2_of_sums_is_that_of_all_bins(windows):
    draw, windows = windows
    predicted = [draw.normal(0, 0.3, true.shape) for _, _, true, _ in windows]
    sums = sum(
        moments(arrays, p.reshape(-1), layout.dims)
        for (arrays, layout, _, _), p in zip(windows, predicted, strict=True)
    )
    true, guess = np.concatenate([w[2] for w in windows]), np.concatenate(predicted)
    assert r2_of(sums) == pytest.approx(r2_variance_weighted(true, guess), abs=1e-9)
    flat = sums.reshape(4, -1).sum(1, keepdims=True)
    assert r2_of(flat) == pytest.approx(r2_flat(true, guess), abs=1e-9)


def test_bits_of_sums_are_those_of_all_bins(windows):
    draw, windows = windows
    sums, rates = [], []
    for arrays, layout, _, spikes in windows:
        of_window = draw.uniform(0.05, 0.6, spikes.shape)
        padded = np.concatenate([of_window, np.full((len(spikes), 1), 9.0)], axis=1)
        laid = padded[:, layout.columns].reshape(-1, layout.columns.shape[1])
        sums.append(likelihood(arrays["spikes"], laid, layout.real))
        rates.append(of_window)
    counts = np.concatenate([w[3] for w in windows])
    expected = bits_per_spike(counts, np.concatenate(rates))
    assert bits_of(np.sum(sums, axis=0)) == pytest.approx(expected, abs=1e-9)


def test_rows_hold_all_windows_in_order():
    tokens = np.array([400, 400, 300, 900, 2000, 100, 100])
    assert rows_of(np.arange(7), tokens, 1000) == [[0, 1], [2], [3], [4], [5, 6]]


@pytest.mark.parametrize(
    ("metric", "values", "best", "waited"),
    [
        ("val_loss", [3, 2, 2, 1, 5], 4, 1),
        ("val_r2", [0.1, 0.3, NAN, 0.2], 2, 2),
        ("val_bits_per_spike", [NAN, NAN], 0, 2),
    ],
)
def test_the_best_is_kept_until_a_better_one(metric, values, best, waited):
    found = Best(metric)
    for step, value in enumerate(values, 1):
        found = Best.of(metric, found.state()) if found.step else found
        assert found.take(step, value) == (found.step == step)
    assert (found.step, found.waited) == (best, waited)
    assert Best.of("other", found.state()).step == 0


def test_a_best_that_was_never_found_is_remembered_with_its_patience():
    found = Best("val_r2")
    assert found.state() is None
    found.take(1, NAN)
    again = Best.of("val_r2", json.loads(json.dumps(found.state(), allow_nan=False)))
    assert (again.step, again.waited) == (0, 1)
    assert again.take(2, 0.1)


def test_the_best_step_is_kept_until_a_better_one_is_written(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step)
    config = load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml")
    (writer,) = writers(tmp_path)
    saving = Saving(config, None, None, writer, {})
    for best, left in ((3, [3, 5, 6]), (9, [3, 5, 6]), (6, [5, 6])):  # 9 could not be written
        saving.best.step = best
        saving.commit()
        assert steps_of(tmp_path) == left


def test_newer_steps_are_set_aside_and_unfinished_ones_removed(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "steps" / "00000003").mkdir()
    set_aside(tmp_path, 2)
    remove_remnants(tmp_path)
    assert steps_of(tmp_path) == [1]
    found = sorted(p.name for p in (tmp_path / "steps").iterdir())
    assert found == ["00000001", "00000002.left"]
    assert (tmp_path / "steps" / "00000002.left" / "checkpoint.json").is_file()


def test_pruning_keeps_the_newest_every_nth_the_best_and_the_pinned(tmp_path):
    for step in range(1, 13):
        Path(step_folder(tmp_path, step)).mkdir(parents=True)
        (Path(step_folder(tmp_path, step)) / "checkpoint.json").write_text("{}")
    (Path(step_folder(tmp_path, 7)) / "pinned").touch()
    prune(tmp_path, 2, keep_every=5, best=3)
    assert steps_of(tmp_path) == [3, 5, 7, 10, 11, 12]
    prune(tmp_path, 1)
    assert steps_of(tmp_path) == [7, 12]

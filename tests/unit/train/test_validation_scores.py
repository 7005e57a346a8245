"""What is validated, which step is the best, and which checkpoints are kept."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from saves import save, writers

from ndt3_dist.checkpoint.steps import prune, remove_remnants, set_aside, step_folder, steps_of
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.engines.phases import Phases
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.saving import Saving
from ndt3_dist.train.state import Best, RunState
from ndt3_dist.train.validation import check_metric, rows_of

NAN = float("nan")


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
    parts = {"writer": writer, "is_first": True, "keep_best": None}
    engine = SimpleNamespace(phases=Phases())
    run = SimpleNamespace(config=config, folder=tmp_path, engine=engine, **parts)
    state = RunState(Best("val_loss"))
    saving = Saving(run, state)
    for best, left in ((3, [3, 5, 6]), (9, [3, 5, 6]), (6, [5, 6])):  # 9 could not be written
        state.best.step = best
        saving.commit(state)
        assert steps_of(tmp_path) == left


def test_a_metric_that_no_validation_gives_is_refused():
    targets = NDT3(ModelConfig(layers=1, dim=64, heads=2, feedforward=64)).targets
    for name in ("val_loss", "val_loss_spikes", "val_r2", "val_r2_flat", "val_bits_per_spike"):
        check_metric(name, targets)
    with pytest.raises(BadInput, match=r"'val_f1'; this model has val_loss, val_loss_spikes"):
        check_metric("val_f1", targets)


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

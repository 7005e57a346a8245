"""When a run ends, and what it refuses to start from."""

import json

import pytest

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import CheckpointCorrupt, ResumeMismatch
from ndt3_dist.train import start as start_module
from ndt3_dist.train.loop import is_done, total_steps
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.start import check_shared, find_start, refuse_loop


def demo_config(*overrides):
    return load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides)


def test_a_run_ends_when_its_epochs_are_seen_or_its_steps_are_taken():
    config = demo_config("train.epochs=2")
    assert not is_done(config, 10**6, 1.99)
    assert is_done(config, 1, 2.0)
    assert is_done(demo_config("train.max_steps=5"), 5, 0.0)
    patient = demo_config("validation.every_steps=1", "validation.patience=2")
    assert not is_done(patient, 1, 0.0, waited=1)
    assert is_done(patient, 1, 0.0, waited=2)


def test_the_number_of_steps_follows_from_the_rows_of_an_epoch():
    config = demo_config("train.epochs=2.5", "train.global_batch=2")
    assert total_steps(config, 2.5 * 101 / 2) == 127
    assert total_steps(demo_config("train.max_steps=5"), 100) == 5


def test_a_start_is_never_guessed(tmp_path):
    config = demo_config(f"run.dir={tmp_path}")
    assert find_start(config, "never") is None
    assert find_start(config, "auto") is None
    with pytest.raises(ResumeMismatch, match="expected never, auto or a step number"):
        find_start(config, "latest")
    step = tmp_path / "demo" / "steps" / "00000007"
    step.mkdir(parents=True)
    (step / "checkpoint.json").write_text("{}")
    with pytest.raises(ResumeMismatch, match="--resume auto"):
        find_start(config, "never")
    with pytest.raises(CheckpointCorrupt, match="none of its checkpoints is intact"):
        find_start(config, "auto")


def test_restarts_that_get_nowhere_end(tmp_path):
    config = demo_config(f"run.dir={tmp_path}", "checkpoint.max_starts=3")
    run = tmp_path / "demo"
    (run / "faults").mkdir(parents=True)
    (run / "faults" / "20260101-rank00001.txt").touch()

    def started(*steps):
        lines = [json.dumps({"from_step": s, "ranks": 2}) + "\n" for s in steps]
        (run / "starts.jsonl").write_text("".join(lines))
        refuse_loop(config, None)

    started()
    started(5, 0, 0)
    started(0, 0, 5)
    with pytest.raises(ResumeMismatch, match=r"all from step 0 .*/20260101-rank00001.txt; raise"):
        started(0, 0, 0)
    with pytest.raises(ResumeMismatch, match="its last 3 starts"):
        started(8, 0, 0, 0)


def test_a_run_folder_of_which_each_host_has_its_own_is_refused(tmp_path, monkeypatch):
    """Two ranks, of which the other sees another folder."""
    (tmp_path / "starts.jsonl").write_text("old\nnew\n")
    other = {"seen": "new"}
    monkeypatch.setattr(start_module, "gather", lambda value: ["new", other["seen"]])
    check_shared(tmp_path, 0.1)
    other["seen"] = "old"
    with pytest.raises(ResumeMismatch, match="rank 1 cannot see what rank 0 wrote"):
        check_shared(tmp_path, 0.1)

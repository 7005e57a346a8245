"""What a run is refused for before its engine starts."""

import os

import pytest

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import change_line, changed
from ndt3_dist.train.start import check_possible


def config_of(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    check_possible(config_of(f"run.dir={tmp_path}/a/b"), 100)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=f"{tmp_path}/file is a file; expected a folder"):
        check_possible(config_of(f"run.dir={tmp_path}/file/b"), 100)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # to root all is allowed
    with pytest.raises(BadInput, match=f"nothing can be written in {tmp_path}"):
        check_possible(config_of(f"run.dir={tmp_path}/a"), 100)


def test_a_step_of_more_rows_than_the_run_has_is_refused(tmp_path):
    place = f"run.dir={tmp_path}"
    check_possible(config_of(place, "train.global_batch=300", "train.epochs=3"), 100)
    with pytest.raises(BadInput, match="100 windows in 3 epochs are at most 300 rows"):
        check_possible(config_of(place, "train.global_batch=301", "train.epochs=3"), 100)


def test_settings_that_differ_are_named_with_both_values():
    before = {"optim": {"lr": 3e-3, "betas": [0.9, 0.95]}, "run": {"seed": 0}}
    now = {"optim": {"lr": 1e-4, "betas": [0.9, 0.95]}, "run": {"seed": 0, "wait_s": 0.0}}
    assert changed(before, now) == {"optim.lr": [3e-3, 1e-4]}
    assert change_line(8, changed(before, now)).endswith("after step 8: optim.lr 0.003 -> 0.0001")

"""What a run is refused for before its engine starts."""

import os
from types import SimpleNamespace

import pytest
import torch

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput, ResumeMismatch
from ndt3_dist.train.initial import initial_model
from ndt3_dist.train.pretrain import attention_body
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import change_line, changed
from ndt3_dist.train.start import check_possible, check_same


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


def test_a_checkpoint_from_before_attention_had_an_order_goes_on_in_either():
    config = config_of("model.attention_fixed_order=false")
    older = config.model_dump(mode="json")
    del older["model"]["attention_fixed_order"]
    check_same(config, SimpleNamespace(meta={"config": older}, folder="f"))  # pyright: ignore
    older["model"]["dim"] = 1
    with pytest.raises(ResumeMismatch, match=r"model\.dim was 1"):
        check_same(config, SimpleNamespace(meta={"config": older}, folder="f"))  # pyright: ignore


def test_what_attention_runs_on_is_said(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    plain, loose = config_of("train.compile=true"), config_of("model.attention_fixed_order=false")
    assert attention_body(config_of(), cpu) == ", attention blocked"
    assert attention_body(plain, cpu) == ", attention blocked, compiled"
    monkeypatch.setattr("ndt3_dist.train.pretrain.choose_body", lambda *_: "varlen")
    monkeypatch.setattr("ndt3_dist.train.pretrain.fused.runs_on", lambda *_: True)
    row = plain.data.row_tokens
    assert attention_body(plain, cuda) == (
        f", attention varlen, compiled, micro-batches padded to multiples of {row} tokens"
    )
    assert attention_body(loose, cuda) == ", attention varlen in any order, fused kernels"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert initial_model(plain).pad_to == row
    assert initial_model(loose).pad_to == 0

"""How many passes fit into a time."""

import time

import pytest
import torch

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train import throughput as speed
from ndt3_dist.train.pretrain_config import PretrainConfig


def test_passes_follow_the_clock_the_ranks_and_the_corpus(corpus, tiny_model, monkeypatch):
    overrides = [f"data.corpus={corpus}", "data.row_tokens=1024"]
    config = load_config(PretrainConfig, PROJECT / "configs" / "demo.yaml", overrides)
    config = config.model_copy(update={"model": tiny_model})
    opened, threads = Corpus(corpus), torch.get_num_threads()
    clock = iter((100.0, 103.0))  # three seconds for the timed steps, whatever they took
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    one = speed.passes_in(60, config, opened, 1)
    clock = iter((0.0, 3.0))
    two = speed.passes_in(120, config, opened, 2)
    assert two == pytest.approx(4 * one)
    assert torch.get_num_threads() == threads
    windows = one * speed.OVERHEAD * 3 * len(opened) / 60
    assert windows == pytest.approx(round(windows))
    assert 0 < windows <= 10 * 1024 / 80  # windows of 10 rows, each of 80 tokens or more

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
    found = speed.measure(config, opened)
    one = found.passes(60, 1)
    assert found.passes(120, 2) == pytest.approx(4 * one)
    assert found.passes(0.1, 1) == pytest.approx(one / 600)  # less than one, if need be
    assert found.steps(60, 16) == int(one * len(opened) / 16)
    assert found.steps(0, 16) == 1
    assert torch.get_num_threads() == threads
    windows = one * speed.OVERHEAD * 3 * len(opened) / 60
    assert windows == pytest.approx(round(windows))
    assert 0 < windows <= 10 * 1024 / 80  # windows of 10 rows, each of 80 tokens or more

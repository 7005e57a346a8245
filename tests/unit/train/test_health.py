"""Leaps of the loss are noticed, and the sessions behind them named."""

from types import SimpleNamespace

import numpy as np
from small_corpus import make_recording, write_corpus
from streams import one_stream

from ndt3_dist.data.order import generator
from ndt3_dist.train.health import leap_line, leaps
from ndt3_dist.train.state import Best, RunState


def test_a_leap_is_seen_and_noise_and_decay_are_not():
    noise = generator("noise").normal(0, 0.02, 300)
    losses = 1 + np.exp(-np.arange(300) / 50) + noise
    last = RunState(Best("val_loss")).losses
    for loss in losses:
        assert not leaps(loss, last)
        last.append(loss)
    assert len(last) == 100
    assert leaps(2.0, last)
    last.append(2.0)
    assert leaps(2.0, last)  # a leap is not what the next is compared to
    assert not leaps(1.01, last)
    assert not leaps(float("nan"), last)  # another error's business


def test_a_leap_names_the_sessions_that_its_step_has_too_many_of(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 40, [40]) for i in (1, 2, 3)])
    stream = one_stream(tmp_path / "c", tiny_model)
    of_second = np.flatnonzero(stream.corpus.index["session"] == 1)
    of_first = np.flatnonzero(stream.corpus.index["session"] == 0)
    rows = [(0, 0, of_second[:9]), (1, 0, of_first[:3])]
    assert stream.over_represented(rows) == [("t-S-02", 9, 4.0)]
    line = leap_line(SimpleNamespace(stream=stream), 7, 3.5, rows)
    assert "loss 3.5000 at step 7" in line
    assert "t-S-02 9 windows (4.0 expected)" in line


def test_sessions_that_are_not_trained_on_are_not_expected(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 40, [40]) for i in (1, 2, 3)])
    stream = one_stream(tmp_path / "c", tiny_model, exclude=("t-S-01",))
    of_second = np.flatnonzero(stream.corpus.index["session"] == 1)
    assert stream.over_represented([(0, 0, of_second[:8])]) == [("t-S-02", 8, 4.0)]

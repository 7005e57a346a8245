"""Leaps of the loss are noticed, and the sessions behind them named."""

import numpy as np
from small_corpus import make_recording, write_corpus

from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.order import generator
from ndt3_dist.data.stream import Stream
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.spikes import SpikeWatch, over_represented, spike_line


def test_a_leap_is_a_spike_and_noise_and_decay_are_not():
    noise = generator("noise").normal(0, 0.02, 300)
    losses = 1 + np.exp(-np.arange(300) / 50) + noise
    watch = SpikeWatch()
    assert not any(watch.is_spike(loss) for loss in losses)
    assert watch.is_spike(2.0)
    assert watch.is_spike(2.0)  # a spike is not what the next is compared to
    assert not watch.is_spike(1.01)
    assert not watch.is_spike(float("nan"))  # another error's business


def test_a_spike_names_the_sessions_that_its_step_has_too_many_of(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 40, [40]) for i in (1, 2, 3)])
    stream = Stream(Corpus(str(tmp_path / "c")), DataConfig(), tiny_model, 0, 4, 1)
    of_second = np.flatnonzero(stream.corpus.index["session"] == 1)
    of_first = np.flatnonzero(stream.corpus.index["session"] == 0)
    rows = [(0, 0, of_second[:9]), (1, 0, of_first[:3])]
    assert over_represented(stream, rows) == [("t-S-02", 9, 4.0)]
    line = spike_line(7, 3.5, stream, rows)
    assert "loss 3.5000 at step 7" in line
    assert "t-S-02 9 windows (4.0 expected)" in line


def test_sessions_that_are_not_trained_on_are_not_expected(tmp_path, tiny_model):
    write_corpus(tmp_path / "c", [make_recording(i, 40, [40]) for i in (1, 2, 3)])
    data = DataConfig(exclude=("t-S-01",))
    stream = Stream(Corpus(str(tmp_path / "c")), data, tiny_model, 0, 4, 1)
    of_second = np.flatnonzero(stream.corpus.index["session"] == 1)
    assert over_represented(stream, [(0, 0, of_second[:8])]) == [("t-S-02", 8, 4.0)]

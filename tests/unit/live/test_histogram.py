"""The table of durations: quantiles within a step of it, of a size that stays."""

import json

import numpy as np

from ndt3_dist.live.histogram import ENTRIES, RATIO, Histogram
from ndt3_dist.live.tally import Tally


def test_quantiles_are_within_a_step_above_those_of_all_values():
    values = np.random.default_rng(0).lognormal(1, 1, 20_000)
    histogram = Histogram()
    for ms in values:
        histogram.add(ms)
    for part in (0.01, 0.5, 0.99, 0.999):
        true = np.sort(values)[int(np.ceil(part * len(values))) - 1]
        assert true <= histogram.quantile(part) <= true * RATIO * (1 + 1e-9)
    assert histogram.summary()["max"] == round(values.max(), 4)
    assert histogram.quantile(1) == values.max()


def test_it_does_not_grow_and_takes_any_duration():
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0
    for ms in (0, 1e-9, 1e12):
        histogram.add(ms)
    assert len(histogram.counts) == ENTRIES
    assert [n for _, n in histogram.table()] == [2, 1]
    assert histogram.quantile(1) == 1e12


def test_a_tally_is_json_and_a_line():
    tally = Tally(20.0)
    tally.took.add(3)
    tally.bins = tally.lost = 1
    values = json.loads(json.dumps(tally.values()))
    assert values["lost"] == 1
    assert values["took_ms"]["max"] == 3
    assert values["took_ms"]["histogram"][0][1] == 1
    assert tally.text().startswith("1 bins of 20 ms (0 observed); ms per bin: p50 3.00  p99 3.00")

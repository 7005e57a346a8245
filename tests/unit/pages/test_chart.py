"""Charts: ticks are round, lines stay small, and what is no number is left out."""

import re

import numpy as np
import pytest

from ndt3_dist.pages.axes import linear_axis, log_axis
from ndt3_dist.pages.chart import POINTS, Series, as_chart, raw_and_smoothed, smoothed, thinned
from ndt3_dist.pages.page import as_bars, as_facts, as_table, section
from ndt3_dist.pages.words import Name, count


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 110, ["0", "25", "50", "75", "100"]),
        (0, 31_000, ["0", "10k", "20k", "30k"]),
        (1, 2_400_000, ["0.5M", "1.0M", "1.5M", "2.0M"]),
        (-1.1, 0.9, ["-1.0", "-0.5", "0", "0.5"]),
        (0, 3e-3, ["0", "0.001", "0.002", "0.003"]),
        (0, 3.1e-5, ["0", "1e-5", "2e-5", "3e-5"]),
        (5, 5, ["3", "4", "5", "6", "7"]),
        (0, 0, ["-0.4", "-0.2", "0", "0.2", "0.4"]),
    ],
)
def test_ticks_are_round_and_in_one_unit(low, high, texts):
    assert [text for _, text in linear_axis(low, high).ticks] == texts


def test_steps_and_channels_have_whole_ticks():
    for low, high, texts in (
        (1, 4, ["1", "2", "3", "4"]),
        (0, 1, ["0", "1"]),
        (1, 12, ["5", "10"]),
        (0, 110, ["0", "25", "50", "75", "100"]),
    ):
        assert [text for _, text in linear_axis(low, high, whole=True).ticks] == texts
    chart = as_chart("a", [Series(np.arange(1.0, 4), np.arange(3.0))], "step")
    assert re.findall(r'class="x"[^>]*>(.*?)<', chart) == ["1", "2", "3"]
    chart = as_chart("a", [Series(np.arange(1.0, 4) / 2, np.arange(3.0))], "s")
    assert ">1.2<" in chart


def test_ticks_of_factors_are_few_over_any_number_of_powers():
    assert [text for _, text in log_axis(0.4, 11).ticks] == ["0.5", "1", "2", "5", "10"]
    for low, high in ((0.4, 2.5), (0.01, 30), (1e-9, 1e12), (3, 3e5)):
        axis = log_axis(low, high)
        assert 1 <= len(axis.ticks) <= 5
        assert all(low <= value <= high for value, _ in axis.ticks)
    assert axis.place(np.array([3.0, 3e5])).tolist() == pytest.approx([0, 1])


def test_a_long_series_keeps_its_leaps_and_few_points():
    x = np.arange(100_000.0)
    y = np.zeros(100_000)
    y[77_123], y[500:700] = 9, np.nan
    thin_x, thin_y = thinned(x, y)
    assert len(thin_x) <= 2 * POINTS
    assert 9 in thin_y
    assert (np.diff(thin_x) > 0).all()


def test_the_smoothed_curve_follows_the_middle_and_no_leap():
    draw = np.random.default_rng(0)
    x = np.arange(2000.0)
    y = 1 + np.exp(-x / 300) + draw.normal(0, 0.1, 2000)
    y[::50] = 40
    y[3] = np.nan
    at, found = smoothed(x, y)
    assert len(at) <= 240
    assert np.isfinite(found).all()
    assert np.abs(found - 1 - np.exp(-at / 300)).max() < 0.15
    assert np.abs(np.diff(found)).mean() < 0.02
    steep = np.exp(-x / 100)  # nothing but the curve: it begins and ends where the values do
    found = smoothed(x, steep)[1]
    assert found[0] == pytest.approx(1, abs=0.1)
    assert found[-1] == pytest.approx(0, abs=0.01)
    for short in (0, 1, 2):
        assert len(smoothed(x[:short], y[:short])[0]) == short


def test_a_gap_breaks_a_line_and_nothing_known_is_no_chart():
    x = np.arange(5.0)
    chart = as_chart("a", [Series(x, np.array([1, 2, np.nan, 3, 4]))], "step")
    path = re.search(r'class="k1 line" d="([^"]*)"', chart)
    assert path
    assert path[1].count("M") == 2
    assert "nan" not in chart
    assert as_chart("a", [Series(x, np.full(5, np.nan))], "step") == ""
    assert as_chart("a", [], "step") == ""


def test_a_chart_of_few_or_equal_values_is_drawn():
    for values in ([0.5], [0.0, 0.0], [1e-30, 1e30]):
        x, y = np.arange(len(values), dtype=float), np.array(values)
        for log in (False, True):
            chart = as_chart("a", raw_and_smoothed(x, y), "step", log=log, from_zero=True)
            assert "nan" not in chart
            assert "inf" not in chart


def test_bars_of_a_chart_are_as_wide_as_one():
    chart = as_chart("a", [Series(np.arange(4.0), np.array([1, 0, 2, 4.0]), "", 1, "area")], "c")
    bars = re.findall(r"M(\S+) 1000V(\d+)h(\S+)V1000z", chart)
    assert [(float(left), float(wide)) for left, _, wide in bars] == [
        (0, 250),
        (500, 250),
        (750, 250),
    ]


def test_tables_align_numbers_and_escape_all_else():
    table = as_table([{"what_is": "<i>", Name("a_b"): count(3)}], best=0)
    assert "<th>What is</th>" in table
    assert '<th class="n"><code>a_b</code></th>' in table
    assert '<tr class="best"><td>&lt;i&gt;</td><td class="n">3</td></tr>' in table
    assert '<td><code class="long">' in as_table([{"a": Name("a_b" * 12)}])
    assert as_table([]) == section("x", as_table([])) == as_facts({}) == ""
    assert "&lt;b&gt;" in as_facts({"a": "<b>", "<c>": 1})
    assert "<c>" not in as_facts({"a": "<b>", "<c>": 1})
    assert "width:50.0%" in as_bars([("a", 1, count(1), False), ("b", 2, count(2), True)])
    chart = as_chart("<x>", [Series(np.arange(2.0), np.arange(2.0), "<y>")], '"<z>')
    assert not re.search(r"<[xyz]>", chart)
    assert 'aria-label="&lt;x&gt; by &quot;&lt;z&gt;"' in chart

"""Curves of the board: no leap is lost, however many steps there are."""

import json

import numpy as np
import pytest

from ndt3_dist.cluster.board.curves import View, across, bucketed, charts, means, shown_keys
from ndt3_dist.cluster.board.time_line import time_axis, time_line
from ndt3_dist.pages.followed_run import FollowedRun


def run_of(folder, steps, **keys):
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as f:
        for step in range(1, steps + 1):
            values = {"loss": 1 / step, "tokens": 100, "step_s": 36.0, "wait_s": 9.0}
            f.write(json.dumps({"step": step, **values, **keys}) + "\n")
    run = FollowedRun(str(folder))
    run.update()
    return run


def test_each_stretch_keeps_its_least_and_greatest_value():
    x, y = np.arange(1_000_000.0), np.ones(1_000_000)
    y[123_456], y[654_321] = 9, -9
    got_x, got_y = bucketed(x, y, (0.0, 999_999.0), 400)
    assert len(got_x) == len(got_y) <= 800
    assert got_y.max() == 9
    assert got_y.min() == -9
    assert abs(got_x[got_y.argmax()] - 123_456) < 2500
    assert (np.diff(got_x) >= 0).all()


def test_stretches_are_of_x_and_not_of_values():
    x = np.concatenate([np.linspace(0, 1, 5000), [50.0, 100.0]])
    got_x, _ = bucketed(x, np.arange(5002.0), (0.0, 100.0), 100)
    assert {50.0, 100.0} <= {*got_x} | {100.0}
    assert len(got_x) <= 8


@pytest.mark.parametrize("half", [1, 10, 1000])
def test_means_are_those_of_what_is_beside(half):
    y = np.random.default_rng(0).normal(size=300)
    places = np.array([0, 5, 150, 299])
    found = means(y, places, half)
    room = min(half, 149)
    assert found[2] == pytest.approx(y[150 - room : 151 + room].mean())
    assert np.isfinite(found).all()
    assert means(np.ones(1), np.array([0]), 5).tolist() == [1]


def test_a_chart_of_each_key_of_any_run(tmp_path):
    runs = [run_of(tmp_path / "a", 100, val_r2=0.5), run_of(tmp_path / "b", 50, **{"loss/x": 1.0})]
    assert shown_keys(runs, "") == [
        "loss",
        "val_r2",
        "tokens_per_s",
        "waiting_for_data_share",
    ]
    assert shown_keys(runs, "loss") == ["loss", "loss/x"]
    drawn, more = charts(runs, View())
    assert (len(drawn), more) == (4, 0)
    assert drawn[0].count('class="k1') == drawn[0].count('class="k2') == 2


def test_x_is_steps_tokens_or_hours_and_a_part_of_them(tmp_path):
    runs = [run_of(tmp_path / "a", 100)]
    assert across(runs, View()) == (1, 100)
    assert across(runs, View("tokens")) == (100, 10_000)
    assert across(runs, View("time")) == pytest.approx((0.01, 1.0))
    assert across(runs, View(left=20, right=30)) == (20, 30)
    assert across(runs, View(left=30, right=20)) == (1, 100)
    whole, part = (charts(runs, view)[0][0] for view in (View(), View(left=20.0, right=30.0)))
    assert whole != part
    assert 'data-ends="20.0 30.0"' in part


def test_a_run_without_steps_is_no_error(tmp_path):
    (tmp_path / "a").mkdir()
    run = FollowedRun(str(tmp_path / "a"))
    run.update()
    assert charts([run], View()) == ([], 0)
    assert time_line([run]) == ""


def test_times_have_round_ticks():
    begin = 1_795_860_000.0
    for length in (10, 600, 3600, 86400, 40 * 86400, 3e8):
        axis = time_axis(begin, begin + length)
        assert len(axis.ticks) <= 6
        assert all(axis.low <= t <= axis.high for t, _ in axis.ticks)
    assert len(time_axis(begin, begin + 86400).ticks) >= 2


def test_the_time_line_has_a_row_of_each_run(tmp_path):
    runs = [run_of(tmp_path / n, 5) for n in "ab"]
    start = {"from_step": 0, "ranks": 2, "time": "2026-11-28T02:30:43+0000"}
    (tmp_path / "a" / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (tmp_path / "b" / "faults").mkdir()
    (tmp_path / "b" / "faults" / "1.txt").write_text("<b>Bad</b>: x\n")
    for run in runs:
        run.events.update()
    text = time_line(runs)
    assert "&lt;b&gt;Bad&lt;/b&gt;: x" in text
    assert "<b>" not in text
    assert "k3 dot" in text
    assert "k6 dot" in text

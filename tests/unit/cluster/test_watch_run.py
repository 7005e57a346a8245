"""What `ndt3 watch` says of a run, as lines and on a screen."""

import io
import json

import numpy as np
import pytest

from ndt3_dist.cluster.watch.lines import Lines
from ndt3_dist.cluster.watch.screen import picture
from ndt3_dist.cluster.watch.sparkline import sparkline
from ndt3_dist.pages import followed_run
from ndt3_dist.pages.followed_run import FollowedRun

CONFIG = "train: {max_steps: 100}\nlog: {every_steps: 5}\nvalidation: {metric: val_r2}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(followed_run, "AROUND_S", {False: -1.0, True: -1.0})
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").write_text(CONFIG)
    return path


def write(folder, steps, how="w", **more):
    with (folder / "metrics.jsonl").open(how) as f:
        for step in steps:
            values = {"loss": 1 / step, "grad_norm": 1.0, "lr": 1e-4, "tokens": 1000, "step_s": 2.0}
            values |= {"wait_s": 0.1, "memory_gb": 3.0, **more}
            f.write(json.dumps({"step": step, **values}) + "\n")


def said(run, lines):
    run.update()
    return list(lines.new())


def test_lines_are_those_of_the_console_and_come_once(folder):
    write(folder, range(1, 41))
    run = FollowedRun(str(folder))
    lines = Lines(run, before=2)
    first = said(run, lines)
    assert [text.split("  ")[0] for text in first] == [
        "step 35/100",
        "step 40/100",
        "run is stopped at step 40",
    ]
    assert "0.5k tok/s" in first[1]
    assert first[1].endswith("eta 2m00s")
    assert said(run, lines) == []
    write(folder, range(41, 44), "a")
    assert said(run, lines) == []
    write(folder, [44], "a", val_r2=0.5, val_s=1.0)
    found = said(run, lines)
    assert found[0].startswith("step 44/100  loss")
    assert found[1].startswith("step 44 validated in 1.0 s: r2 0.500  (the best so far)")
    write(folder, [45], "a", val_r2=0.25, val_s=1.0)
    assert said(run, lines)[1].endswith("(best: step 44)")


def test_a_resume_is_followed(folder):
    write(folder, range(1, 51))
    run = FollowedRun(str(folder))
    lines = Lines(run)
    said(run, lines)
    entry = {"from_step": 32, "ranks": 4, "time": "2026-11-28T02:30:43+0000"}
    (folder / "starts.jsonl").write_text(json.dumps(entry) + "\n")
    new = folder / "new"
    new.mkdir()
    write(new, range(1, 33))
    write(new, range(33, 41), "a", loss=9.0)
    (new / "metrics.jsonl").replace(folder / "metrics.jsonl")
    found = said(run, lines)
    assert found[0] == "back behind step 32: what followed is run again"
    assert found[1] == "resumed from the end of step 32: 4 ranks"
    assert [text.split("  ")[:2] for text in found[2:4]] == [
        ["step 35/100", "loss 9.0000"],
        ["step 40/100", "loss 9.0000"],
    ]


def test_new_faults_and_saves_are_told_old_ones_are_not(folder):
    write(folder, range(1, 11))
    (folder / "faults").mkdir()
    (folder / "faults" / "1.txt").write_text("Old: one\n")
    run = FollowedRun(str(folder))
    lines = Lines(run)
    assert not any("fault" in text for text in said(run, lines))
    (folder / "faults" / "2.txt").write_text("Bad: \x1b]0;title\x07 thing\n")
    (folder / "steps" / "00000010").mkdir(parents=True)
    (folder / "steps" / "00000010" / "checkpoint.json").write_text("{}")
    found = said(run, lines)
    assert sorted(found) == ["checkpoint of step 10", "fault: 2.txt: Bad:  ]0;title  thing"]


def test_a_line_lacks_what_a_damaged_one_lacks(folder):
    write(folder, range(1, 5))
    with (folder / "metrics.jsonl").open("a") as f:
        f.write('{"step": 5}\nrubbish\n')
    run = FollowedRun(str(folder))
    found = said(run, Lines(run))
    assert found[0].startswith("step 5/100  loss nan")
    assert found[-1].startswith("warning: run: metrics.jsonl: line 6 is no JSON")


def drawn(run, width=100, height=30, encoding="utf-8"):
    from rich.console import Console

    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    console = Console(file=file, width=width, height=height, force_terminal=True)
    console.print(picture(run, console))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (40, 10)])
def test_a_screen_shows_all_that_fits(folder, width, height):
    write(folder, range(1, 41), mfu=0.4, val_r2=0.7)
    (folder / "faults").mkdir()
    for number in range(20):
        (folder / "faults" / f"{number}.txt").write_text("Bad\x1b]0;title\x07[red] thing\n")
    run = FollowedRun(str(folder))
    run.update()
    text = drawn(run, width, height)
    assert len(text.splitlines()) <= height
    assert "\x1b]" not in text
    assert "step 40 of 100" in text
    if width == 100:
        assert "MFU 40 %" in text
        assert "tokens/s 500" in text
        assert "[red] thing" in text
        assert "\u2588" in text


def test_a_terminal_without_blocks_gets_characters(folder):
    write(folder, range(1, 41))
    run = FollowedRun(str(folder))
    run.update()
    text = drawn(run, encoding="ascii")
    assert "@" in text
    assert "loss" in text


def test_a_sparkline_goes_from_least_to_most_with_gaps():
    assert sparkline(np.array([0.0, 1, 2, 3, 4, 5, 6, 7]), 8, "01234567") == "01234567"
    assert sparkline(np.array([0.0, 0, 7, 7]), 2, "01234567") == "07"
    assert sparkline(np.array([0.0, np.nan, 7]), 3, "01234567") == "0 7"
    assert sparkline(np.full(4, np.nan), 3) == ""
    assert sparkline(np.full(4, 2.0), 4, "01234567") in ("4444", "3333")

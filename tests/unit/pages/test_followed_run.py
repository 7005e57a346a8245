"""A run as it stands: its steps, its end, what happened to it, whether it lives."""

import json
import math
import os
import time

import pytest

from ndt3_dist.pages import followed_run, run_events
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.run_events import EMPTY, KILLED, LIVE, OVER, STOPPED


def line(step, **more):
    values = {"loss": 1 / step, "epochs": (step - 1) * 0.01, "samples": 4, "tokens": 100}
    return json.dumps({"step": step, **values, "step_s": 0.5, "wait_s": 0.1, **more}) + "\n"


def make_run(folder, steps, config="train: {epochs: 2.0}\n"):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text("".join(map(line, range(1, steps + 1))))
    return FollowedRun(str(folder))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(followed_run, "AROUND_S", {False: -1.0, True: -1.0})


def test_the_end_follows_from_passes_and_from_max_steps(tmp_path):
    run = make_run(tmp_path / "a", 100)
    run.update()
    assert run.total == 200
    assert run.seconds_left == pytest.approx(50)
    for name, config, total in [
        ("b", "train: {epochs: 2.0, max_steps: 150}\n", 150),
        ("c", "train: {epochs: 2.0, max_steps: 0}\n", 200),
        ("d", "train: {steps: 120}\n", 120),
        ("e", "train: {epochs: many, max_steps: [3]}\n", None),
        ("f", "train: 3\n", None),
    ]:
        run = make_run(tmp_path / name, 100, config)
        run.update()
        assert run.total == total
        assert math.isfinite(run.seconds_left) == (total is not None)


def test_a_run_of_all_its_passes_is_done(tmp_path):
    assert not done(make_run(tmp_path / "a", 199))
    assert done(make_run(tmp_path / "b", 200))


def done(run):
    run.update()
    return run.is_done


def test_states(tmp_path):
    run = make_run(tmp_path / "r", 100)
    mark = tmp_path / "r" / "lease.json"
    old = time.time() - 1000

    def state(again=True):
        now = FollowedRun(run.path) if again else run
        now.update()
        return now.state

    os.utime(tmp_path / "r" / "metrics.jsonl", (old, old))
    assert state() == STOPPED
    mark.write_text("{}")
    assert state() == LIVE
    os.utime(mark, (old, old))
    assert state() == KILLED
    assert state(again=False) == KILLED
    os.utime(mark, (old + 5, old + 5))  # a clock that is wrong, of a process that is at work
    assert state(again=False) == LIVE
    mark.unlink()
    (tmp_path / "r" / "metrics.jsonl").write_text("".join(map(line, range(1, 201))))
    assert state() == OVER
    (tmp_path / "r" / "metrics.jsonl").write_text("")
    assert state() == EMPTY


def test_a_fine_tune_is_over_with_its_export(tmp_path):
    run = make_run(tmp_path / "r", 10)
    (tmp_path / "r" / "config.yaml").unlink()
    (tmp_path / "r" / "config.json").write_text('{"train": {"steps": 50}}')
    run.update()
    assert (run.state, run.total) == (LIVE, 50)
    (tmp_path / "r" / "export").mkdir()
    (tmp_path / "r" / "export" / "config.json").write_text("{}")
    run.update()
    assert run.state == OVER


def test_what_happened_is_told_with_its_step(tmp_path):
    run = make_run(tmp_path / "r", 10)
    start = {"from_step": 0, "ranks": 2, "device": "cpu", "time": "2026-11-28T02:30:43+0000"}
    again = {**start, "from_step": 8, "changed": {"optim.lr": [1, 2]}}
    again["time"] = "2026-11-28T04:30:43+0000"
    text = json.dumps(start) + "\n\x00\n[3]\n" + json.dumps(again) + "\n"
    (tmp_path / "r" / "starts.jsonl").write_text(text)
    step, faults = tmp_path / "r" / "steps" / "00000008", tmp_path / "r" / "faults"
    step.mkdir(parents=True)
    (step.parent / "00000009").mkdir()  # never came to its end
    (step / "checkpoint.json").write_text("{}")
    faults.mkdir()
    (faults / "20261128-040000-rank00001.txt").write_text("Traceback\n  \nBad: \x1b[2Jno\n\n")
    run.update()
    started, resumed = run.events.starts
    assert (started.kind, started.step, started.text) == ("start", 0, "2 ranks, cpu")
    assert (resumed.kind, resumed.step) == ("resume", 8)
    assert resumed.text == "2 ranks, cpu, optim.lr 1 -> 2"
    assert resumed.time - started.time == 7200
    assert [event.step for event in run.events.saves] == [8]
    (fault,) = run.events.faults
    assert fault.text == "20261128-040000-rank00001.txt: Bad:  [2Jno"
    assert run.problem == "starts.jsonl: line 3 tells no start"


def test_what_cannot_be_read_is_a_line_and_no_end(tmp_path):
    run = make_run(tmp_path / "r", 10, "train: {\n")
    with (tmp_path / "r" / "metrics.jsonl").open("ab") as f:
        f.write(b"\x00\n\x00\n" + line(12).encode())
    run.update()
    assert run.step == 12
    assert "config.yaml: no settings" in run.problem
    assert "metrics.jsonl: line 11 is no JSON (2 damaged lines)" in run.problem
    assert "\n" not in run.problem
    (tmp_path / "r" / "metrics.jsonl").unlink()
    (tmp_path / "r" / "metrics.jsonl").mkdir()  # cannot be read
    run.update()
    assert "metrics.jsonl" in run.problem


def test_a_step_that_is_run_again_has_its_new_save(tmp_path):
    run = make_run(tmp_path / "r", 10)
    meta = tmp_path / "r" / "steps" / "00000008" / "checkpoint.json"
    meta.parent.mkdir(parents=True)
    meta.write_text("{}")
    os.utime(meta, (1000, 1000))
    run.update()
    assert run.events.saves[0].time == 1000
    entry = {"from_step": 4, "time": "2026-11-28T02:30:43+0000"}
    (tmp_path / "r" / "starts.jsonl").write_text(json.dumps(entry) + "\n")
    os.utime(meta, (2000, 2000))
    run.update()
    assert run.events.saves[0].time == 2000


def test_texts_of_files_are_one_plain_line():
    assert run_events.plain("a\x1b]0;x\x07b\nc") == "a ]0;x b c"
    assert len(run_events.plain("x" * 1000)) == 300

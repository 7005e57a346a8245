"""What the page of a run says of its model, its data and its machine, where files say so."""

import json
import platform
import re

import numpy as np
import pytest
import torch

from ndt3_dist.model.flops import device_name
from ndt3_dist.pages.about import run_facts
from ndt3_dist.pages.course import Course
from ndt3_dist.pages.run_page import write_report

START = {"from_step": 0, "ranks": 2, "time": "2026-11-28T08:14:15+0000"}


def course(at_random: bool = False) -> Course:
    """Forty steps of eight windows: five to a pass, or drawn at random."""
    passes = 1 if at_random else 1 / 5
    return Course(
        [
            {"step": s + 1, "epochs": s * passes, "position": s, "samples": 8, "tokens": 1000}
            for s in range(40)
        ]
    )


@pytest.fixture
def run(tmp_path):
    """A run whose files say all."""
    starts = [START, {**START, "from_step": 9, "ranks": 4, "device": "Some CPU"}]
    (tmp_path / "starts.jsonl").write_text("".join(json.dumps(s) + "\n" for s in starts))
    norms = {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {"a": {}, "b": {}, "c": {}}}
    (tmp_path / "normalisation.json").write_text(json.dumps(norms))
    (tmp_path / "export").mkdir()
    export = {"model": {"layers": 12, "dim": 1024}, "parameters": 345_678_901}
    (tmp_path / "export" / "config.json").write_text(json.dumps(export))
    return tmp_path


def test_model_data_date_and_machine_are_told(run):
    found = run_facts(run, course())
    assert found == {
        "parameters": 345_678_901,
        "layers x width": "12 x 1,024",
        "sessions": 3,
        "hours": 40 * 2 / 3600,
        "windows": 40,
        "tokens_of_a_pass": 5000,
        "begun": "2026-11-28",
        "device": "Some CPU",
        "processes": 4,
        "starts": 2,
    }


def test_what_no_file_says_is_left_out(run):
    assert "windows" not in run_facts(run, course(at_random=True))
    (run / "export" / "config.json").write_text(json.dumps({"model": {"build": "m:f"}}))
    (run / "starts.jsonl").unlink()
    (run / "normalisation.json").unlink()
    assert run_facts(run, course()) == {"windows": 40, "tokens_of_a_pass": 5000}


def test_a_page_opens_with_them_and_each_number_is_there_once(run):
    lines = "".join(json.dumps({**line, "step_s": 0.5}) + "\n" for line in course().lines)
    (run / "metrics.jsonl").write_text(lines)
    (run / "summary.json").write_text(
        json.dumps({"windows": 77, "seconds": 161, "mine": "x", "r2_a": 0.3})
    )
    with open(write_report(run)) as file:
        page = file.read().split("</style>")[1]
    top, below = page.split("<h2>Training</h2>")
    for told in ("346M", "12 x 1,024", "Some CPU", "2026-11-28", "2.7 min", "Processes"):
        assert told in top
    assert re.findall(r"<dt>Windows</dt><dd><span[^>]*>(.*?)<", page) == ["40"]
    assert "<code>x</code>" in below
    assert "0.300" in below
    scores = {"a": {"r2": 0.3, "bins": 9}}
    told = {
        "session": "s",
        "bin_ms": 20.0,
        "dims": ["x (cm/s)"],
        "scores": scores,
        "predictions": {},
    }
    result = {**told, "truth": np.zeros((9, 1))}
    with open(write_report(run, None, result)) as file:  # its table has the score
        page = file.read()
    assert page.index("share of the variance of velocity") < page.index("<dl")
    assert "0.300" not in page.split("<h2>Training</h2>")[1]


def test_a_processor_has_a_name(monkeypatch):
    assert device_name(torch.device("cpu"))
    monkeypatch.setattr("ndt3_dist.model.flops.Path.is_file", lambda _: False)
    assert device_name(torch.device("cpu")) == f"{platform.machine()} CPU"

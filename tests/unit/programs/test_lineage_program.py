"""`ndt3 lineage`: the chain of an export, of a fine-tune's folder and of a run, as a table."""

import json
import sys
from types import SimpleNamespace

import pytest

from ndt3_dist import storage
from ndt3_dist.checkpoint import steps
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import FORMAT, VERSION
from ndt3_dist.programs import lineage, verify_run

STAGES = [
    {"corpus": "a" * 64, "split": "train", "steps": 70, "epochs": 1.5, "sessions": {"x": "7" * 64}},
    {"corpus": "b" * 64, "split": "calibration", "steps": 4, "sessions": None},
]


@pytest.fixture
def tuned(tmp_path):
    """A fine-tune's folder."""
    config = {"format": FORMAT, "version": VERSION, "trained": {"lineage": STAGES}}
    storage.write_json(tmp_path / "export" / "config.json", config)
    storage.write_json(tmp_path / "export" / "normalisation.json", {"sessions": {}})
    storage.write_json(tmp_path / "config.json", {"run": {}})  # that of a fine-tune, no export's
    return tmp_path


@pytest.fixture
def printed(monkeypatch, capsys):
    """What the program prints for some words."""

    def run(*words) -> str:
        monkeypatch.setattr(sys, "argv", ["lineage", *map(str, words)])
        lineage.main()
        return capsys.readouterr().out

    return run


def test_an_export_and_the_fine_tune_that_made_it_say_the_same(tuned, printed):
    told = printed(tuned / "export")
    assert told == printed(tuned)
    head, *rows = [line.split() for line in told.splitlines() if line.split()]
    assert head == ["stage", "corpus", "split", "steps", "passes", "sessions"]
    assert ["1", "a" * 12, "train", "70", "1.50", "1"] in rows
    assert ["2", "b" * 12, "calibration", "4", "not", "written", "down"] in rows
    assert "7" * 64 not in told
    assert f"1  x  {'7' * 64}" in printed(tuned, "--sessions")
    assert json.loads(printed(tuned, "--json")) == STAGES


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, printed):
    storage.write_json(tmp_path / "lineage.json", {"before": [], "stages": []})
    with pytest.raises(BadInput, match=r"no run with lineage\.json and a checkpoint"):
        printed(tmp_path)


def test_a_run_is_verified_with_what_its_weights_have_seen(tmp_path, monkeypatch, capsys):
    whole = SimpleNamespace(verify=lambda: None, meta={"step": 9, "epochs": 2.5})
    monkeypatch.setattr(steps, "steps_of", lambda run: [9])
    monkeypatch.setattr(steps, "open_step", lambda run, step: whole)
    monkeypatch.setattr(sys, "argv", ["verify-run", str(tmp_path)])
    assert verify_run.main() == 0
    assert "nobody wrote down what it saw" in capsys.readouterr().out
    now = {"corpus": "c" * 64, "split": "train", "from_step": 0, "from_epochs": 0.0}
    kept = {"before": STAGES[:1], "stages": [{**now, "sessions": {"y": "8" * 64}}]}
    storage.write_json(tmp_path / "lineage.json", kept)
    assert verify_run.main() == 0
    said = capsys.readouterr().out
    assert f"1. 70 steps (1.50 passes) on split train of corpus `{'a' * 16}`: 1 session" in said
    assert f"2. 9 steps (2.50 passes) on split train of corpus `{'c' * 16}`: 1 session" in said
    storage.write_json(tmp_path / "lineage.json", {"before": []})
    assert verify_run.main() == 1
    (tmp_path / "lineage.json").write_text("{")
    assert verify_run.main() == 1
    assert capsys.readouterr().out.count("lineage.json  damaged: ") == 2

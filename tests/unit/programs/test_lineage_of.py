"""`ndt3 lineage` finds the stages of a run's newest step, of an export, and of a fine-tune."""

import sys

import pytest

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import FORMAT, VERSION
from ndt3_dist.programs import lineage

STAGE = {"corpus": "c" * 64, "split": "train", "steps": 5, "sessions": {"t-A-1": "7" * 64}}
UNKNOWN = {**STAGE, "steps": 2, "sessions": None}


@pytest.fixture
def export(tmp_path):
    config = {"format": FORMAT, "version": VERSION, "trained": {"lineage": [UNKNOWN, STAGE]}}
    storage.write_json(tmp_path / "tune" / "export" / "config.json", config)
    storage.write_json(tmp_path / "tune" / "export" / "normalisation.json", {"sessions": {}})
    return tmp_path / "tune" / "export"


def test_a_chain_is_told_stage_by_stage_with_its_sessions(export, monkeypatch, capsys):
    for path in (export, export.parent):
        monkeypatch.setattr(sys, "argv", ["lineage", str(path), "--sessions"])
        lineage.main()
        head, first, second, session = capsys.readouterr().out.splitlines()
        assert head.split() == ["stage", "corpus", "split", "steps", "sessions"]
        assert first.split() == ["1", "c" * 12, "train", "2", "not", "written", "down"]
        assert second.split() == ["2", "c" * 12, "train", "5", "1"]
        assert session.split() == ["2", "t-A-1", "7" * 64]


def test_what_is_neither_a_run_nor_an_export_is_refused(tmp_path):
    with pytest.raises(BadInput, match="a checkpoint, and no export"):
        lineage.stages_of(str(tmp_path))

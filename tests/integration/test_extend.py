"""docs/extend.md as it stands: a package of somebody else's from recordings to an export."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ndt3_dist.checkpoint.steps import steps_of
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import load_model
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.train.run_metrics import read_metrics

PAGE = (PROJECT / "docs" / "extend.md").read_text()


def block(name: str, kind: str) -> str:
    """The fenced block that follows a file's name."""
    found = re.search(rf"`{re.escape(name)}`.*?```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder in which every command of the page was run."""
    folder = tmp_path_factory.mktemp("lab")
    for name, kind in (("lab_toy.py", "python"), ("lfp.yaml", "yaml"), ("next_row.yaml", "yaml")):
        (folder / name).write_text(block(name, kind))
    (folder / "recordings").mkdir()
    for number in range(3):
        draw = np.random.default_rng(number)
        lfp = np.zeros((6000, 8), np.float32)
        for t in range(1, len(lfp)):  # an oscillation of each channel, and noise
            lfp[t] = 0.95 * np.roll(lfp[t - 1], 1) + draw.normal(0, 10, 8)
        np.savez(folder / "recordings" / f"A_{number}.npz", lfp=lfp, rate=100.0)
    commands = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert commands
    here = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    script = ["bash", "-euc", commands[1]]
    ran = subprocess.run(script, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "NextRow(" in ran.stdout
    return folder


def test_the_corpus_has_the_stream_and_no_other(done):
    manifest = read_manifest(str(done / "corpus"))
    assert (manifest.version, list(manifest.streams)) == (2, ["lfp"])
    (stream,) = manifest.sessions[0].streams
    assert (stream.rate_hz, stream.dims, stream.unit) == (100.0, 8, "deviation")
    assert sum(s.samples for s in manifest.shards) == 3 * 30


def test_it_is_trained_resumed_validated_and_reported_under_its_own_names(done):
    lines = read_metrics(done / "runs" / "next_row")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss"] == line["loss_next"] > 0 for line in lines)
    assert lines[0]["loss"] > lines[-1]["loss"]
    assert set(lines[1]) >= {"val_loss", "val_loss_next", "val_next_r2", "val_next_r2/toy"}
    assert steps_of(done / "runs" / "next_row") == [2, 4]
    page = (done / "runs" / "next_row" / "report.html").read_text()
    assert "next" in page


def test_an_export_opens_with_the_function_and_imports_nothing_without(done, monkeypatch):
    config = json.loads((done / "exports" / "next_row" / "config.json").read_text())
    assert config["model"] == {"build": "lab_toy:build", "dims": 8}
    monkeypatch.setattr(sys, "path", [str(done), *sys.path])
    with pytest.raises(BadInput, match="lab_toy:build, which is not imported because a file says"):
        load_model(done / "exports" / "next_row")
    assert "lab_toy" not in sys.modules
    import lab_toy

    model = load_model(done / "exports" / "next_row", build=lab_toy.build)
    assert model.step.weight.shape == (8, 8)
    del sys.modules["lab_toy"]

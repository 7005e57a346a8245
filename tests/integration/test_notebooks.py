"""The notebooks of examples/ run from top to bottom, and are kept without what they print."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from ndt3_dist.config import PROJECT

PICTURES = {"prepare_and_look": 3, "fine_tune_and_decode": 1, "features": 2}
"""Of each notebook, in the order in which they are run."""
QUIET = Config({"KernelManager": {"transport": "ipc"}})
"""Sockets of kernels are files in the current folder: nothing listens on the network."""


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(PROJECT / "examples" / f"{name}.ipynb", as_version=4)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook in an empty folder by a kernel of its own; gives its text and pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))  # no settings of this user's

    def run(name: str) -> tuple[str, int]:
        notebook = read(name)
        NotebookClient(notebook, timeout=200, kernel_name="python3", config=QUIET).execute()
        outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
        text = "".join(o.text for o in outputs if o.get("name") == "stdout")
        return text, sum("image/png" in o.get("data", {}) for o in outputs)

    return run


def test_the_notebooks_run_one_after_the_other(run):
    left = Path("runs/two_days/day1/export")  # as by an earlier pass
    left.mkdir(parents=True)
    (left.parent / "config.yaml").write_text("left\n")
    found = {name: run(name) for name in PICTURES}
    assert {name: pictures for name, (_, pictures) in found.items()} == PICTURES
    said = {name: text for name, (text, _) in found.items()}
    assert "102 units, 6000 samples of velocity in cm/s" in said["prepare_and_look"]
    assert "30 windows of ['look-A-01']" in said["prepare_and_look"]
    decoded = dict(re.findall(r"(\S.*\S) +R2 (\S+)", said["fine_tune_and_decode"]))
    assert {*decoded} == {"fine-tuned", "closed form", "ridge"}
    assert min(map(float, decoded.values())) > 0.5, decoded
    layers = dict(re.findall(r"(counts|layer \d) +R2 (\S+)", said["features"]))
    assert {*layers} == {"counts", "layer 0", "layer 1"}
    assert float(layers["layer 1"]) > 0.5, layers


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_is_kept_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_notebook_is_run():
    assert {p.stem for p in (PROJECT / "examples").glob("*.ipynb")} == {*PICTURES}

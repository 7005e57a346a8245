"""A curve on Ray that is killed goes on, and has the numbers of one that was left alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hub_server import make_export
from small_corpus import make_recording, write_corpus

from ndt3_dist.config import PROJECT
from ndt3_dist.model.model_config import ModelConfig

pytest.importorskip("pyarrow", reason="Ray Tune needs pyarrow: pip install ndt3_dist[search]")

WORDS = ["--corpus", "c", "--init", "init", "--decoders", "pretrained,ridge,gru"]
WORDS += ["--shares", "50", "--seeds", "2", "--rates", "1e-3,1e-2", "--threads", "1"]
WORDS += ["train.steps=10", "train.eval_every=5", "train.batch=2", "train.precision=fp32"]
WORDS += ["gru.steps=10", "gru.width=16", "gru.batch=4"]


def begin(folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "launch" / "curve.py"), *WORDS, *words],
        cwd=folder,
        # Ray gives its workers a thread each; linear algebra rounds by how many it has.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path[1:]]),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(folder: Path) -> set[str]:
    """Trials that are over."""
    return {
        f"{file.parent.name} {json.loads(line)['trial']}"
        for file in folder.glob("o/searches/*/trials.jsonl")
        for line in file.read_text().splitlines()
        if '"ended"' in line and line.endswith("}")
    }


def test_a_curve_that_is_killed_goes_on_to_the_same_numbers(tmp_path):
    splits = [{"unit": "s", "intervals": {"calibration": (0, 30), "test": (30, None)}}]
    write_corpus(tmp_path / "c", [make_recording(3, 41, [32])], splits=splits, window_ms=500)
    model = ModelConfig(
        **{"layers": 1, "dim": 32, "heads": 1, "feedforward": 16, "channels_per_token": 32},
        **{"attention_dropout": 0.0, "context_tokens": False},
    )
    make_export(tmp_path / "init", model, 0)
    first = begin(tmp_path, "--workers", "2", "--out", "o")
    deadline = time.monotonic() + 200
    while not ended(tmp_path):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    others = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.communicate()
    psutil.wait_procs(others, timeout=60)  # Ray's and the runs end by themselves
    before = ended(tmp_path)
    assert not [*tmp_path.glob("o/cells/*")]
    second = begin(tmp_path, "--workers", "2", "--out", "o")
    alone = begin(tmp_path, "--workers", "0", "--out", "alone")
    for process in (second, alone):
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
    lines = [*tmp_path.glob("o/searches/*/trials.jsonl")]
    told = [json.loads(line) for file in lines for line in file.read_text().splitlines()]
    assert sum("ended" in t for t in told) == 2 * 2  # each once
    assert before <= ended(tmp_path)
    cells = {f.name: json.loads(f.read_text()) for f in tmp_path.glob("o/cells/*.json")}
    assert len(cells) == 3 * 2
    for name, cell in cells.items():
        other = json.loads((tmp_path / "alone" / "cells" / name).read_text())
        assert cell["scores"] == other["scores"], name
        assert cell["chosen"] == other["chosen"], name

"""A student's machine: what an export needs installed, and nothing else."""

import json
import subprocess
import sys

import pytest
from launching import ROOT, launch

from ndt3_dist.checkpoint.export import export

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]
ABSENT = "for name in ('deepspeed', 'ray', 'pynwb', 's3fs', 'wandb', 'webdataset', 'psutil'):\n"
LOOK = f"""
import importlib.util, json, sys
{ABSENT}    assert importlib.util.find_spec(name) is None, name
import torch
from safetensors.torch import load_file
import ndt3_dist
model = ndt3_dist.load_model(sys.argv[1])
weights = load_file(sys.argv[1] + "/model.safetensors")
assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
print(json.dumps(sum(p.numel() for p in model.parameters())))
"""


def test_an_export_loads_and_is_fine_tuned_without_deepspeed(corpus, tmp_path):
    code, log = launch(tmp_path, corpus, extra=["train.max_steps=4", "train.zero_stage=3"])
    assert code == 0, log
    config = export(tmp_path / "r", tmp_path / "e", None, "fp32")

    def call(*command):
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    torch = next(line for line in lock if line.startswith("torch=="))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*pip, torch)
    call(*pip, "setuptools>=77")
    call(*pip, "--no-build-isolation", "-e", ROOT)
    told = call(python, "-c", LOOK, tmp_path / "e")
    assert json.loads(told.splitlines()[-1]) == config["parameters"]
    tune = [python, "launch/finetune.py", "--config", "tune_session.yaml", "--init", tmp_path / "e"]
    tune += [f"data.corpus={corpus}", f"run.dir={tmp_path}", "train.steps=4", "train.batch=2"]
    call(*tune, "train.eval_every=2")
    assert (tmp_path / "tune_session" / "export" / "model.safetensors").is_file()

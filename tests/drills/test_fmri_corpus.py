"""Encoders by the same road as NDT3: a corpus, DeepSpeed, an export; searches; trees of 100 GB."""

import os
import subprocess
import sys

import fmri_files as files
import nibabel
import numpy as np
import pytest
import yaml
from launching import ROOT

from ndt3_dist import load_model
from ndt3_dist.checkpoint.export import export
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import load_recipe
from ndt3_dist.tasks.fmri.brain_picture import save_brain
from ndt3_dist.tasks.fmri.clips.clip_reader import write_clips
from ndt3_dist.tasks.fmri.clips.clip_source import TreeSource
from ndt3_dist.tasks.fmri.encoders import encode
from ndt3_dist.tasks.fmri.encoders.build import BUILD, build
from ndt3_dist.tasks.fmri.fmri_config import FmriConfig
from ndt3_dist.train.run_metrics import read_metrics


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = files.write_tree(tmp_path_factory.mktemp("fmri"))
    (root / "c.yaml").write_text(yaml.safe_dump(files.settings(root, kind="ridge")))
    return root


def typed(*words, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_an_encoder_is_pretrained_on_a_corpus_and_exported(root, monkeypatch):
    monkeypatch.chdir(root)
    settings = FmriConfig.model_validate(files.settings(root))
    source = encode.open_source(settings)
    assert isinstance(source, TreeSource)
    assert len(write_clips(source, "clips")) == 9
    told = ["source=clips", "out=corpus", "window_ms=29800", "num_workers=0"]
    prepare(load_recipe(ROOT / "data_prep" / "recipes" / "fmri.yaml", told))
    model = {"build": BUILD, "kind": "conv_linear", "streams": files.DIMS, "width": 16}
    model |= {"subjects": list(files.SUBJECTS), "parcels": files.PARCELS, "kernel": 9, "mse": 0.1}
    config = {
        "run": {"name": "conv", "dir": "runs"},
        "data": {"corpus": "corpus", "row_tokens": 80},
        "model": {**model, "pearson": 1},
        "optim": {"lr": 0.03, "warmup_epochs": 0, "decay_epochs": 20},
        "train": {"global_batch": 4, "max_steps": 16, "precision": "fp32"},
        "validation": {"every_steps": 8, "metric": "val_r"},
        "checkpoint": {"every_steps": 8},
    }
    (root / "pretrain.yaml").write_text(yaml.safe_dump(config))
    typed(ROOT / "launch/pretrain.py", "--config", "./pretrain.yaml", cwd=root)
    lines = read_metrics(root / "runs" / "conv")
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert lines[0]["loss"] > lines[-1]["loss"]
    assert set(lines[-1]) >= {"val_r", "val_loss_pearson", "val_loss_mse", "loss_pearson"}
    assert lines[15]["val_r"] > lines[7]["val_r"] > 0.1
    export("runs/conv", "exports/conv", None, "fp32")
    assert load_model(root / "exports" / "conv", build=build).dims == files.DIMS
    values = files.settings(root, width=16)
    values["data"] = {"corpus": "corpus", "subjects": list(files.SUBJECTS)}
    values["train"]["epochs"] = 2
    assert encode.train(FmriConfig.model_validate(values))["best_epoch"] == 2


@pytest.mark.drill
def test_a_sweep_finds_the_planted_lag_and_goes_on_where_it_was_killed(root):
    space = {"method": "grid", "space": {"model.lags": [[0], [3]]}}
    (root / "space.yaml").write_text(yaml.safe_dump(space))
    words = ROOT / "launch/fmri.py", "sweep", "--config", "./c.yaml", "--space", "./space.yaml"
    said = typed(*words, "--out", "search", cwd=root)
    assert "best: trial 1, model.lags=[3]" in said
    assert (root / "search" / "best.yaml").read_text().startswith("# ndt3 fmri fit --config")
    trials = (root / "search" / "trials.jsonl").read_bytes()
    assert "best: trial 1" in typed(*words, "--out", "search", cwd=root)
    assert (root / "search" / "trials.jsonl").read_bytes() == trials


@pytest.mark.drill
def test_a_brain_is_drawn_without_a_download(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("socket.socket.connect", offline)
    labels = np.zeros((20, 22, 18), np.int16)
    labels[4:16, 4:18, 4:14] = np.random.default_rng(0).integers(1, 9, (12, 14, 10))
    place = np.diag([8.0, 8, 8, 1])
    place[:3, 3] = -80, -100, -60
    nibabel.save(nibabel.Nifti1Image(labels, place), tmp_path / "atlas.nii.gz")
    save_brain(np.linspace(0, 0.5, 8), tmp_path / "atlas.nii.gz", tmp_path / "b.png", "sub-01")
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="labels 0 to 8; expected 0 to 9"):
        save_brain(np.zeros(9), tmp_path / "atlas.nii.gz", tmp_path / "c.png", "")


STEPS = """
import resource, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree
from ndt3_dist.tasks.fmri.clips.clip_source import Clip
from ndt3_dist.tasks.fmri.encoders.build import build
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.clip_steps import ClipSteps
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
class Source:
    subjects, parcels = ["sub-01"], 4
    def __init__(self, tree):
        self.tree, self.dims = tree, tree.dims
        self.clips = [Clip(name, 1, 600) for name in sorted(tree.files["s0"])]
    def features(self, clip, start, stop):
        return self.tree.read(clip.name, start, stop)
    def bold(self, clip, start, stop):
        return np.zeros((stop - start, 1, 4), np.float32)
source = Source(FeatureTree(sys.argv[1], {f"s{i}": f"s{i}" for i in range(14)}))
values = {"feature_mean": 0, "feature_scale": 1}
shape = len(source.clips), 1, 4
values |= {"bold_mean": np.zeros(shape), "bold_scale": np.ones(shape)}
options = {"streams": {"a": 1}, "subjects": ["x"], "parcels": 4}
steps = ClipSteps(ClipScales(source, values), build(options), source.clips, 8, 64, 0)
for position in range(8):
    steps.load(position)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.drill
def test_100_gb_of_features_are_read_in_bounded_memory(tmp_path):
    shape, total = (600, 9216), 0
    for stream in range(14):
        (tmp_path / f"s{stream}").mkdir()
        for clip in range(330):
            path = tmp_path / f"s{stream}" / f"s01e{clip:03d}a.npy"
            with path.open("wb") as file:
                head = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, head)
                file.truncate(file.tell() + 4 * shape[0] * shape[1])  # sparse: takes no disk
            total += path.stat().st_size
    assert total > 100e9
    grown_kb = int(typed("-c", STEPS, tmp_path, ROOT, cwd=tmp_path))
    print(f"100 GB of features: memory grew by {grown_kb / 1e6:.2f} GB")
    assert grown_kb < 2_000_000  # a step's windows are .26 GB

"""Fixtures that many tests share."""

import math
import os

import nwb_files
import pytest
import torch
from pools import pool_of
from small_corpus import make_recording, write_corpus

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

from ndt3_dist import voice
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.prep import job
from ndt3_dist.prep.workers import run_here


@pytest.fixture(autouse=True)
def no_idle_lines(monkeypatch):
    """What a test reads does not depend on how busy the machine is; `unit/test_voice.py` speaks."""
    monkeypatch.setattr(voice, "FIRST_S", math.inf)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> str:
    """Three sessions of 20 to 40 s; the last gives calibration and test."""
    out = tmp_path_factory.mktemp("corpus") / "c"
    splits = [
        {"match": "*-03", "unit": "s", "intervals": {"calibration": (0, 20), "test": (20, None)}},
        {"intervals": {"train": (0, 1)}},
    ]
    recordings = [
        make_recording(1, 40, [40]),
        make_recording(2, 30, [32, 20]),
        make_recording(3, 31, [40]),
    ]
    write_corpus(out, recordings, splits=splits)
    return str(out)


@pytest.fixture
def tiny_model() -> ModelConfig:
    """Two layers of width 64: what a test trains in a second."""
    return ModelConfig(
        layers=2, dim=64, heads=2, feedforward=64, attention_dropout=0.0, context_tokens=False
    )


@pytest.fixture(scope="session")
def write_nwb():
    """`nwb_files.write_small_nwb`, for test files to call."""
    return nwb_files.write_small_nwb


@pytest.fixture(scope="session")
def write_session():
    """`nwb_files.write_session`, for test files to call."""
    return nwb_files.write_session


@pytest.fixture
def without_ray(monkeypatch):
    """`job.prepare` in this process."""
    monkeypatch.setattr(job, "workers", pool_of(run_here))
    return run_here


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An S3 server with a bucket `lab`, which this process and those that it starts use."""
    from s3_server import S3, use

    (tmp_path / "s3" / "lab").mkdir(parents=True)
    s3 = S3(tmp_path / "s3")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    use(s3)
    yield s3
    s3.close()


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_model):
    """A hub with the model `lab/tiny`, besides whose export lie files that nobody asked for."""
    from hub_server import HubServer, make_export

    from ndt3_dist import remote

    server = HubServer(tmp_path)
    for what in ("TELEMETRY", "XET", "PROGRESS_BARS"):  # before the next line imports the library
        monkeypatch.setenv(f"HF_HUB_DISABLE_{what}", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    server.models["lab/tiny@main"] = make_export(tmp_path / "tiny", tiny_model, 0)
    yield server
    server.close()

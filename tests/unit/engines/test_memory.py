"""What a step is reckoned to hold is what one held, and a config that cannot fit is refused."""

import pytest
import torch

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.engines.memory import largest_micro_batch, memory_of, micro_batch_bytes, states
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import OwnModel
from ndt3_dist.train import settings
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import as_begun, fitted

GIB = 2**30
BIG, BASE = "big_350m_2kh.yaml", "base_45m_200h.yaml"
ON_AN_H200 = [
    (BASE, 32120, 6.6, 3.1),
    (BASE, 128480, 24.5, 10.1),
    (BIG, 16060, 16.1, 8.2),
    (BIG, 48180, 38.8, 15.1),
]
"""Config, tokens, peak GiB, and with recompute (benchmarks/results/gpu_2026-11-28.txt)."""


def config_of(file: str, *overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, PROJECT / "configs" / file, overrides)


@pytest.mark.parametrize(("file", "tokens", "kept", "recomputed"), ON_AN_H200)
def test_a_micro_batch_holds_what_was_measured_on_a_gpu(file, tokens, kept, recomputed):
    for recompute, measured in ((False, kept), (True, recomputed)):
        config = config_of(file, f"train.recompute={recompute}".lower())
        found = memory_of(config.ndt3, config.train, tokens, 1, gpu=True)
        # There by the plain optimizer, which has no gradients in the forward pass.
        reckoned = found.weights + found.masters + found.moments
        reckoned += micro_batch_bytes(config.ndt3, config.train, tokens, gpu=True)
        assert reckoned / GIB == pytest.approx(measured, rel=0.06)


def test_a_micro_batch_on_a_cpu_holds_more(tiny_model):
    train = config_of(BASE).train
    sizes = {gpu: micro_batch_bytes(tiny_model, train, 4096, gpu) for gpu in (True, False)}
    assert sizes[False] > 1.4 * sizes[True]
    twice = micro_batch_bytes(tiny_model, train, 8192, True)
    assert twice == pytest.approx(2 * sizes[True], rel=0.1)


def test_ranks_share_what_their_stage_says():
    train, total = config_of(BASE).train, {}
    for stage in (1, 2, 3):
        of_stage = train.model_copy(update={"zero_stage": stage})
        total[stage] = [sum(states(1000, of_stage, ranks).values()) for ranks in (1, 4)]
    assert total == {1: [18000, 9000], 2: [18000, 6000], 3: [18000, 4500]}
    offload = train.model_copy(update={"offload": True})
    assert sum(states(1000, offload, 4).values()) == 6000


@pytest.mark.parametrize(
    ("gigabytes", "ranks", "rows"), [(140, 8, 8), (40, 8, 8), (24, 8, 4), (40, 3, 8), (40, 512, 6)]
)
def test_the_micro_batch_is_the_largest_that_fits_and_ranks_can_share(gigabytes, ranks, rows):
    config = config_of(BIG)  # 3,072 rows a step
    found = largest_micro_batch(config.ndt3, config.train, 4096, ranks, gigabytes * 10**9)
    assert found == rows
    assert config.train.global_batch % (found * ranks) == 0


def test_what_no_gpu_can_hold_is_refused_with_what_takes_how_much():
    config = config_of(BIG)
    with pytest.raises(BadInput) as refused:
        largest_micro_batch(config.ndt3, config.train, 4096, 1, 6 * 10**9)
    said = str(refused.value)
    assert "GB of a GPU with 6.0 (weights 0.7, masters 1.4, moments 2.8, gradients 1.4" in said
    assert said.endswith(
        "at micro-batches of 4,096 tokens; use train.recompute=true, train.zero_stage=3 or "
        "train.offload=true, or more ranks"
    )


@pytest.fixture
def on_gpus(monkeypatch):
    """Ranks on GPUs with so many bytes."""

    def cards(*sizes: int) -> torch.device:
        monkeypatch.setattr(settings, "gather", lambda _: [*sizes])
        return torch.device("meta")

    return cards


def test_a_start_takes_what_the_smallest_gpu_holds_and_a_resume_what_was_taken(on_gpus):
    config = config_of(BIG)
    gb = 10**9
    assert fitted(config, on_gpus(140 * gb, 24 * gb)).train.micro_batch == 4
    assert fitted(config, on_gpus(0, 0)).train.micro_batch == 1
    start = type("Start", (), {"meta": {"config": {"model": {}, "train": {"micro_batch": 3}}}})
    begun = as_begun(config, start)  # pyright: ignore[reportArgumentType]
    assert begun.train.micro_batch == 3
    assert fitted(begun, on_gpus(140 * gb)).train.micro_batch == 3
    asked = config_of(BIG, "train.micro_batch=6")
    assert as_begun(asked, start).train.micro_batch == 6  # pyright: ignore[reportArgumentType]
    assert fitted(asked, on_gpus(0)).train.micro_batch == 6
    with pytest.raises(BadInput, match=r"train\.micro_batch below 6"):
        fitted(asked, on_gpus(24 * gb))
    own = config.model_copy(update={"model": OwnModel(build="lab.rnn:build")})
    with pytest.raises(BadInput, match=r"what a row of lab\.rnn:build takes is not known"):
        fitted(own, on_gpus(24 * gb))

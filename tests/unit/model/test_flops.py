"""Operations counted by formula are those that torch counts."""

import numpy as np
import pytest
import torch
from samples import sample_of
from torch.utils.flop_counter import FlopCounterMode

from ndt3_dist.model.flops import block_flops, head_flops, peak_bf16, step_flops
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens


def counted(model, tokens, backward):
    with FlopCounterMode(display=False) as counter:
        out = model(tokens, 1, 1)
        if backward:
            out.loss.backward()
    return counter.get_total_flops()


@pytest.fixture
def run(tiny_model):
    config = tiny_model.model_copy(update={"attention": "reference", "dropout": 0.0})
    torch.manual_seed(0)
    layout, lists = Layout.from_counts([40], 2, config, "s"), TokenLists()
    for bins in (20, 20, 9):
        sample = sample_of(np.ones((bins, 40), np.uint8), np.zeros((bins, 2), np.float32))
        lists.add(*tokenise(sample, layout, config))
    return NDT3(config), PackedTokens.from_numpy(lists.pack())


def test_forward_and_step_agree_with_torchs_counter(run):
    model, tokens = run
    config, seqlens = model.config, tokens.seqlens
    heads = head_flops(config, len(tokens.spike_slot), len(tokens.covariate_slot))
    # The reference body multiplies the whole square; the formula counts the causal half of it.
    square = config.layers * sum(4 * n * n * config.dim for n in seqlens)
    causal = config.layers * sum(2 * n * (n + 1) * config.dim for n in seqlens)
    # Inputs that the formula leaves out: covariate values and constraints into the stream.
    inputs = 2 * config.dim * (len(tokens.covariate_slot) + 3 * len(tokens.constraint_slot))
    expected = block_flops(config, seqlens) - causal + square + heads + inputs
    assert counted(model, tokens, backward=False) == expected
    needed, _ = step_flops(config, seqlens, len(tokens.spike_slot), len(tokens.covariate_slot))
    assert needed == 3 * (block_flops(config, seqlens) + heads)
    torchs = counted(model, tokens, backward=True)
    assert torchs == pytest.approx(3 * expected, rel=0.01)  # inputs need no gradient of their own


def test_recomputing_runs_more_than_it_needs(run):
    model, tokens = run
    counts = (model.config, tokens.seqlens, len(tokens.spike_slot), len(tokens.covariate_slot))
    needed, ran = step_flops(*counts, recompute=True)
    assert ran - needed == block_flops(model.config, tokens.seqlens)
    before = counted(model, tokens, backward=True)
    model.recompute = True
    extra = counted(model, tokens, backward=True) - before
    assert extra == pytest.approx(ran - needed, rel=0.15)  # the square again, and not the last


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA RTX A4000", None),  # no A40
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("AMD EPYC", None),
    ],
)
def test_peaks_by_name(name, rate):
    assert peak_bf16(name) == rate

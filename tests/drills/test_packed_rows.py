"""Packed rows give what one window at a time gives by the plain formula; 350M as a drill."""

import pytest
import torch
from samples import sample_of

from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.order import generator
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train.pretrain_config import PretrainConfig

SMALL = ["model.layers=2", "model.dim=128", "model.heads=2", "model.feedforward=128"]
BINS = (30, 12, 21)


def windows(config):
    layout, found = Layout.from_counts([96, 40], 3, config, "s"), []
    for number, bins in enumerate(BINS):
        draw = generator("window", number)
        spikes = draw.poisson(0.4, (bins, 136)).astype("uint8")
        covariates = draw.uniform(-1, 1, (bins, 3)).astype("float32")
        found.append(tokenise(sample_of(spikes, covariates), layout, config))
    return found


def tokens_of(some):
    lists = TokenLists()
    for window in some:
        lists.add(*window)
    return PackedTokens.from_numpy(lists.pack())


def run(model, groups):
    """Loss and gradients summed over groups of windows, divided by the counts of all."""
    whole = tokens_of([w for g in groups for w in g])
    counts = int(whole.spike_channels.sum()), int(whole.covariate_valid.sum())
    loss = 0.0
    for group in groups:
        out = model(tokens_of(group), *counts)
        out.loss.backward()
        loss += float(out.loss.detach())
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for p in model.parameters():
        p.grad = None
    return loss, grads


@pytest.mark.parametrize("size", ["small", pytest.param("350M", marks=pytest.mark.drill)])
def test_packed_rows_agree_with_the_plain_reference_forward_and_backward(size):
    overrides = [
        "model.dropout=0",
        "model.attention_dropout=0",
        *(SMALL if size == "small" else []),
    ]
    file = PROJECT / "configs" / "big_350m_2kh.yaml"
    config = load_config(PretrainConfig, file, overrides).model
    torch.manual_seed(0)
    model = NDT3(config)
    found = windows(config)
    loss, packed = run(model, [found])
    model.config = config.model_copy(update={"attention": "reference"})
    expected, alone = run(model, [[w] for w in found])
    assert loss == pytest.approx(expected, rel=1e-6)
    assert packed.keys() == alone.keys()
    for name, grad in packed.items():
        error, size_of = (grad - alone[name]).norm(), alone[name].norm()
        assert error <= 1e-5 * size_of, f"{name}: {float(error / size_of.clamp(min=1e-30)):.1e}"

"""What pads a micro-batch to fixed shapes counts nowhere."""

import numpy as np
import pytest
import torch
from samples import sample_of

from ndt3_dist.errors import BadInput
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.padding import Sizes, padded
from ndt3_dist.model.tokenise import NDT3Packing
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.manifest import Array, Session

COUNTS = 1000, 40


def windows_of(config):
    """Three windows of one session, with context tokens and values that are not valid."""
    session = Session.model_construct(
        id="s",
        dataset="d",
        subject="p",
        arrays=[Array(name="a", channels=40)],
        covariates=["x", "y"],
    )
    packing, draw, found = NDT3Packing([session], config), np.random.default_rng(0), []
    for bins in (20, 9, 14):
        covariates = draw.uniform(-1, 1, (bins, 2)).astype(np.float32)
        covariates[3] = np.nan
        constraint = draw.random((bins, 3, 2)).astype(np.float32).round()
        returns = draw.integers(0, 2, (bins, 2)).astype(np.int16)
        spikes = draw.poisson(0.3, (bins, 40)).astype(np.uint8)
        sample = sample_of(spikes, covariates, constraint, returns)
        found.append(packing.window(sample, 0, lambda: np.random.default_rng(1)))
    return packing.pack(found), found


@pytest.fixture(params=["blocked", "reference", "masked"])
def config(request, tiny_model):
    changes = {"attention": request.param, "context_tokens": True, "dropout": 0.0}
    if request.param == "masked":
        changes |= {"attention": "blocked", "objective": "masked", "context": ("array", "task")}
        changes["identities"] = ("array:d/p/a", "task:d")
        return tiny_model.model_copy(update=changes)
    return tiny_model.model_copy(update={**changes, "covariate_mask_rate": 0.5})


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return NDT3(config)


def sizes_of(arrays, more=17, **changes):
    contents = {k: len(v) + more for k, v in arrays.items() if k.endswith("_slot")}
    sizes = {"tokens": len(arrays["time"]) + 170, "segments": 8, "longest": 150}
    return Sizes(**{**sizes, **changes}, contents=contents)


def results(model, tokens):
    out = model(tokens, *COUNTS)
    grads = torch.autograd.grad(out.loss, list(model.parameters()))
    return [out.loss, out.sums, *grads], out


@pytest.mark.parametrize("more", ["none", "some", "of a row"])
def test_losses_and_gradients_are_those_without_padding(model, config, more):
    arrays, _ = windows_of(config)
    tokens = len(arrays["time"])
    sizes = {
        "none": sizes_of(arrays, tokens=tokens, segments=3, more=0),
        "some": sizes_of(arrays),
        "of a row": Sizes.of(arrays, 512),
    }[more]
    expected, plain_out = results(model, plain := PackedTokens.from_numpy(arrays))
    held = padded(arrays, sizes)
    found, out = results(model, batch := PackedTokens.from_numpy(held))
    assert (batch.num_tokens, len(batch.seqlens)) == (sizes.tokens, sizes.segments)
    assert {s: len(held[s]) for s in sizes.contents} == sizes.contents
    assert max(batch.seqlens) <= sizes.longest == batch.longest
    assert sum(batch.seqlens) == sizes.tokens
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)
    by_window = model.by_segment(out, batch)
    torch.testing.assert_close(by_window, model.by_segment(plain_out, plain), rtol=1e-6, atol=1e-6)
    assert by_window.shape == (3, 2)


def test_predictions_of_windows_are_those_without_padding(model, config):
    arrays, windows = windows_of(config)
    model.eval()
    found = []
    for pad_to in (0, 512):
        model.pad_to = pad_to
        batch = model.batch(arrays, torch.device("cpu"))
        assert batch.num_tokens == (512 if pad_to else len(arrays["time"]))
        with torch.no_grad():
            found.append(model.predictions(model(batch, 1, 1), windows))
    for plain, ours in zip(*found, strict=True):
        assert plain.keys() == ours.keys()
        for name, array in plain.items():
            np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=1e-6)


def test_padding_is_no_operation_that_the_model_needs(model, config):
    arrays, _ = windows_of(config)
    without = model.operations(arrays)
    model.pad_to = 512
    assert model.operations(arrays) == without


def test_the_sizes_of_full_rows_do_not_change(config):
    arrays, _ = windows_of(config)
    sizes = Sizes.of(arrays, 512)
    assert (sizes.tokens, sizes.segments, sizes.longest) == (512, 64, 512)
    contents = {k: (len(arrays[k]), n) for k, n in sizes.contents.items()}
    assert all(0 <= n - held < 64 and n % 64 == 0 for held, n in contents.values())
    assert Sizes.of(arrays, 100).tokens == -(-len(arrays["time"]) // 100) * 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 10}, "tokens 301 of 10"),
        ({"segments": 2}, "segments 3 of 2"),
        ({"longest": 30}, "longest 140 of 30"),
        ({"more": -1}, "spike_slot 86 of 85"),
        ({"segments": 3}, "has 3 windows"),
    ],
)
def test_a_micro_batch_that_is_larger_is_refused(config, changes, said):
    arrays, _ = windows_of(config.model_copy(update={"context": ()}))
    with pytest.raises(BadInput, match=said):
        padded(arrays, sizes_of(arrays, **changes))

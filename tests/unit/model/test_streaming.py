"""Decoding bin by bin with kept keys and values: equal to a whole pass, bounded, without drift."""

import numpy as np
import pytest
import torch
from samples import sample_of

from ndt3_dist.errors import BadInput, Unsupported
from ndt3_dist.model.linear import CPU_HAS_BF16
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

ARRAYS, DIMS = [40, 8], 2
PER_BIN = 2 + 1 + DIMS


def draw_counts(bins, seed=0):
    return np.random.default_rng(seed).poisson(0.4, (bins, sum(ARRAYS))).astype(np.uint8)


def pack(counts, config):
    layout = Layout.from_counts(ARRAYS, DIMS, config, "s")
    lists = TokenLists()
    hidden = np.full((len(counts), DIMS), np.nan, np.float32)
    lists.add(*tokenise(sample_of(counts, hidden), layout, config))
    return PackedTokens.from_numpy(lists.pack())


@torch.no_grad()
def whole_pass(model, counts):
    tokens = pack(counts, model.config)
    return model.covariate_out(model.features(tokens)[tokens.covariate_slot])[:, 0].view(-1, DIMS)


def decoder_of(model, context, streams=1, kind="fp32"):
    layout = Layout.from_counts(ARRAYS, DIMS, model.config, "s")
    return StreamingDecoder(model, layout, context, streams, kind)


def stream(decoder, counts):
    return torch.cat([decoder.step(of_bin[None]) for of_bin in counts])


def make_model(config, **changes):
    torch.manual_seed(0)
    return NDT3(config.model_copy(update=changes)).eval()


@pytest.mark.parametrize("context_tokens", [False, True])
def test_until_the_window_is_full_it_equals_a_whole_pass(tiny_model, context_tokens):
    # In evaluation nothing is dropped, whatever the config says.
    model = make_model(tiny_model, context_tokens=context_tokens, attention_dropout=0.5)
    counts = draw_counts(31)
    ours, theirs = stream(decoder_of(model, 30), counts), whole_pass(model, counts)
    torch.testing.assert_close(ours[:30], theirs[:30], atol=1e-6, rtol=0)
    assert (ours[30] - theirs[30]).abs().max() > 1e-6  # the first bin has left


def test_a_bin_that_left_the_window_of_a_single_layer_is_forgotten(tiny_model):
    """With one layer nothing that is kept depends on older bins, so the window's edge is sharp."""
    model = make_model(tiny_model, layers=1)
    counts = draw_counts(40)
    before = stream(decoder_of(model, 10), counts)
    counts[5] += 1
    after = stream(decoder_of(model, 10), counts)
    changed = (before != after).any(1).nonzero().flatten().tolist()
    assert changed == list(range(5, 15))


def test_what_is_kept_is_bounded_by_the_window_and_never_moves(tiny_model):
    decoder = decoder_of(make_model(tiny_model, context_tokens=True), 6)
    heads, width = tiny_model.heads, tiny_model.dim // tiny_model.heads
    spare = DIMS + 1  # a constraint for each covariate, and a return, in the first bin alone
    shape = (tiny_model.layers, 1, heads, 6 * PER_BIN + spare, width)
    lies = [t.data_ptr() for t in (decoder.keys, decoder.values, decoder.mask)]
    stream(decoder, draw_counts(20))
    assert decoder.num_bins == 20
    assert decoder.keys.shape == decoder.values.shape == shape
    assert [t.data_ptr() for t in (decoder.keys, decoder.values, decoder.mask)] == lies
    seen = decoder.mask.isfinite()
    assert seen[-1, : 6 * PER_BIN].all()
    assert not seen[:, 6 * PER_BIN :].any()  # the first bin's context tokens left with it


def test_a_long_stream_does_not_drift(tiny_model):
    """The same counts for ever give the same prediction for ever: also after 20 years of bins."""
    decoder = decoder_of(make_model(tiny_model), 4)
    counts = np.repeat(draw_counts(1), 1500, axis=0)
    found = stream(decoder, counts)
    assert (found[20:] - found[20]).abs().max() < 1e-6
    decoder.num_bins += 32 * 10**9
    later = stream(decoder, counts[:50])
    assert (later[20:] - found[20]).abs().max() < 5e-6


def test_streams_go_on_together_as_each_does_alone(tiny_model):
    model = make_model(tiny_model, context_tokens=True)
    counts = np.stack([draw_counts(15, seed) for seed in range(3)], axis=1)
    together = decoder_of(model, 6, streams=3)
    found = torch.stack([together.step(of_bins) for of_bins in counts], dim=1)
    for ours, of_stream in zip(found, counts.transpose(1, 0, 2), strict=True):
        alone = stream(decoder_of(model, 6), of_stream)
        torch.testing.assert_close(ours, alone, atol=1e-6, rtol=0)


def test_a_stream_goes_on_from_what_was_saved(tiny_model):
    model, counts = make_model(tiny_model, context_tokens=True), draw_counts(20)
    for kind in ("fp32", "int8"):
        whole = decoder_of(model, 5, kind=kind)
        expected = stream(whole, counts)
        first, second = decoder_of(model, 5, kind=kind), decoder_of(model, 5, kind=kind)
        stream(first, counts[:12])
        second.restore(first.state())
        assert torch.equal(stream(second, counts[12:]), expected[12:])
    with pytest.raises(BadInput, match=r"state: keys of \(2, 1, 2, 28, 32\), expected"):
        decoder_of(model, 6).restore(first.state())


def test_after_a_reset_the_stream_begins_anew(tiny_model):
    decoder = decoder_of(make_model(tiny_model), 5)
    counts = draw_counts(12)
    first = stream(decoder, counts)
    decoder.reset()
    assert torch.equal(stream(decoder, counts), first)


@pytest.mark.parametrize(("kind", "most"), [("bf16", 0.02), ("int8", 0.05)])
def test_other_types_decode_like_a_whole_pass(tiny_model, kind, most):
    if kind == "bf16" and not CPU_HAS_BF16:
        pytest.skip("this CPU has no instructions for bf16")
    model = make_model(tiny_model)
    counts = draw_counts(20)
    ours, theirs = stream(decoder_of(model, 20, kind=kind), counts), whole_pass(model, counts)
    assert 0 < (ours - theirs).abs().max() < most


def test_what_cannot_be_decoded_is_refused(tiny_model, monkeypatch):
    model = make_model(tiny_model)
    with pytest.raises(BadInput, match="context 0"):
        decoder_of(model, 0)
    with pytest.raises(BadInput, match="no covariates"):
        StreamingDecoder(model, Layout.from_counts(ARRAYS, 0, tiny_model, "s"), 3)
    with pytest.raises(BadInput, match=r"\(1, 47\) counts; expected 1 streams of 48 channels"):
        decoder_of(model, 3).step(np.zeros((1, 47), np.uint8))
    with pytest.raises(BadInput, match=r"model\.eval"):
        decoder_of(model.train(), 3)
    monkeypatch.setattr("ndt3_dist.model.streaming.CPU_HAS_BF16", False)
    with pytest.raises(Unsupported, match="no instructions for it; use fp32 or int8"):
        decoder_of(model.eval(), 3, kind="bf16")
    assert decoder_of(model, 3, kind="auto").kind == "fp32"

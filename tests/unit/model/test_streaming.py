"""Decoding bin by bin with kept keys and values: equal to a whole pass, bounded, without drift."""

import numpy as np
import pytest
import torch
from samples import sample_of

from ndt3_dist.errors import BadInput
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


def stream(decoder, counts):
    first, later = decoder.model.config, decoder.model.config
    later = later.model_copy(update={"context_tokens": False})
    found = []
    for b in range(len(counts)):
        config = later if decoder.num_bins else first
        found.append(decoder.step(pack(counts[b : b + 1], config)))
    return torch.stack(found)


def make_model(config, **changes):
    torch.manual_seed(0)
    return NDT3(config.model_copy(update=changes)).eval()


@pytest.mark.parametrize("context_tokens", [False, True])
def test_until_the_window_is_full_it_equals_a_whole_pass(tiny_model, context_tokens):
    # In evaluation nothing is dropped, whatever the config says.
    model = make_model(tiny_model, context_tokens=context_tokens, attention_dropout=0.5)
    counts = draw_counts(31)
    ours, theirs = stream(StreamingDecoder(model, 30), counts), whole_pass(model, counts)
    torch.testing.assert_close(ours[:30], theirs[:30], atol=1e-6, rtol=0)
    assert (ours[30] - theirs[30]).abs().max() > 1e-6  # the first bin has left


def test_a_bin_that_left_the_window_of_a_single_layer_is_forgotten(tiny_model):
    """With one layer nothing that is kept depends on older bins, so the window's edge is sharp."""
    model = make_model(tiny_model, layers=1)
    counts = draw_counts(40)
    before = stream(StreamingDecoder(model, 10), counts)
    counts[5] += 1
    after = stream(StreamingDecoder(model, 10), counts)
    changed = (before != after).any(1).nonzero().flatten().tolist()
    assert changed == list(range(5, 15))


def test_what_is_kept_is_bounded_by_the_window(tiny_model):
    decoder = StreamingDecoder(make_model(tiny_model, context_tokens=True), 6)
    stream(decoder, draw_counts(20))
    assert decoder.num_bins == 20
    assert list(decoder.tokens_of_bin) == [PER_BIN] * 6  # the first bin's context tokens left too
    assert {len(k) for k in decoder.keys} == {6 * PER_BIN}
    assert {len(v) for v in decoder.values} == {6 * PER_BIN}


def test_a_long_stream_does_not_drift(tiny_model):
    """The same counts for ever give the same prediction for ever, to the last bit."""
    decoder = StreamingDecoder(make_model(tiny_model), 4)
    counts = np.repeat(draw_counts(1), 1500, axis=0)
    found = stream(decoder, counts)
    assert (found[20:] == found[20]).all()


def test_after_a_reset_the_stream_begins_anew(tiny_model):
    decoder = StreamingDecoder(make_model(tiny_model), 5)
    counts = draw_counts(12)
    first = stream(decoder, counts)
    decoder.reset()
    assert torch.equal(stream(decoder, counts), first)


def test_bf16_weights_decode_like_a_whole_pass(tiny_model):
    model = make_model(tiny_model).to(torch.bfloat16)
    counts = draw_counts(20)
    ours, theirs = stream(StreamingDecoder(model, 20), counts), whole_pass(model, counts)
    torch.testing.assert_close(ours, theirs.float(), atol=0.02, rtol=0)


def test_what_cannot_be_decoded_is_refused(tiny_model):
    model = make_model(tiny_model)
    with pytest.raises(BadInput, match="context 0"):
        StreamingDecoder(model, 0)
    lists = TokenLists()
    layout = Layout.from_counts(ARRAYS, 0, tiny_model, "s")
    lists.add(
        *tokenise(sample_of(draw_counts(1), np.zeros((1, 0), np.float32)), layout, tiny_model)
    )
    with pytest.raises(BadInput, match="no covariates"):
        StreamingDecoder(model, 3).step(PackedTokens.from_numpy(lists.pack()))
    with pytest.raises(BadInput, match=r"model\.eval"):
        StreamingDecoder(model.train(), 3)

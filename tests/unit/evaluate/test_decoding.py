"""Scores, ridge and sliding decoding on bins that are identical for all."""

import numpy as np
import pytest
import torch

from ndt3_dist.data.continuous import Piece, read_pieces, split_last
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.metrics import r2_variance_weighted
from ndt3_dist.evaluate.ridge import features, fit_ridge
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.corpus import Corpus


def linear_run(bins=600, seed=0):
    """Covariates that are a causal linear function of counts and a little noise."""
    draw = np.random.default_rng(seed)
    spikes = draw.poisson(0.5, (bins, 12)).astype(np.uint8)
    weights = np.random.default_rng(99).normal(size=(3 * 12, 2))
    noise = 0.1 * draw.normal(size=(bins, 2))
    return Piece(0, spikes, (features(spikes, 3) @ weights + noise).astype(np.float32))


def test_ridge_finds_a_linear_code_and_sees_no_future():
    ridge = fit_ridge([linear_run()], 3)
    test = linear_run(seed=1)
    before = ridge.predict(test)
    assert r2_variance_weighted(test.covariates, before) > 0.99
    spikes = test.spikes.copy()
    spikes[300:] += 1
    after = ridge.predict(Piece(0, spikes, test.covariates))
    np.testing.assert_array_equal(before[:300], after[:300])
    assert (before[300] != after[300]).any()


def test_ridge_equals_the_normal_equations_and_skips_missing_bins():
    piece = linear_run(200)
    piece.covariates[20:40] = np.nan
    ridge = fit_ridge([piece], 3, penalties=[10.0])
    keep = np.isfinite(piece.covariates).all(1)
    x = features(piece.spikes, 3)[keep].astype(np.float64)
    y = piece.covariates[keep].astype(np.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.solve(x.T @ x + 10 * np.eye(36), x.T @ y)
    np.testing.assert_allclose(ridge.linear.weights, expected, atol=1e-5)


def test_the_chosen_penalty_never_sees_the_test_bins():
    pieces = [linear_run()]
    assert fit_ridge(pieces, 3).penalty == fit_ridge(pieces, 3).penalty
    noise = np.random.default_rng(5).normal(size=(600, 2)).astype(np.float32)
    hopeless = fit_ridge([Piece(0, pieces[0].spikes, noise)], 3)
    assert hopeless.penalty > fit_ridge(pieces, 3).penalty


def test_the_history_is_chosen_where_it_may_be():
    ridge = fit_ridge([linear_run()], (1, 2, 3, 6))
    assert ridge.history == 3  # those that made the covariates; more only adds noise
    test = linear_run(seed=1)
    short = fit_ridge([linear_run()], 1)
    assert r2_variance_weighted(test.covariates, ridge.predict(test)) > 0.99
    assert r2_variance_weighted(test.covariates, short.predict(test)) < 0.9


@pytest.fixture
def session_and_model(corpus, tiny_model):
    session, pieces = read_pieces(Corpus(corpus, ("test",)), "t-S-03")
    torch.manual_seed(0)
    return pieces, Layout.of(session, tiny_model), NDT3(tiny_model).eval()


@pytest.mark.parametrize("stride", [1, 7, 100])
def test_decoding_equals_one_window_at_a_time(session_and_model, stride):
    pieces, layout, model = session_and_model
    piece = Piece(0, pieces[0].spikes[:150], pieces[0].covariates[:150])
    ours = slide(model, piece, layout, context=100, stride=stride)[0]
    for end in (1, 50, 100, 131, 150):
        block = min(-(-end // stride) * stride, 150)  # the pass that gives bin end - 1
        window = Piece(0, piece.spikes[max(0, block - 100) : block], piece.covariates[:0])
        alone = Piece(0, window.spikes, np.zeros((len(window.spikes), 2), np.float32))
        expected = slide(model, alone, layout, 100, 100)[0][end - 1 - max(0, block - 100)]
        np.testing.assert_allclose(ours[end - 1], expected, atol=1e-5)


@pytest.mark.parametrize("context_tokens", [False, True])
@pytest.mark.parametrize("context", [7, 64, 100])
def test_a_piece_at_once_is_what_a_stream_gives_bin_by_bin(
    session_and_model, context, context_tokens
):
    pieces, layout, model = session_and_model
    model.config = model.config.model_copy(update={"context_tokens": context_tokens})
    piece = Piece(0, pieces[0].spikes[:230], pieces[0].covariates[:230])
    stream = StreamingDecoder(model, layout, context)
    expected = np.concatenate([stream.step(counts[None]).numpy() for counts in piece.spikes])
    found, rates = slide(model, piece, layout, context, with_rates=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    _, anew = slide(model, piece, layout, context, 1, with_rates=True)
    np.testing.assert_allclose(rates[:context], anew[:context], rtol=1e-4)


@pytest.mark.parametrize("stride", [0, 10])
def test_decoding_sees_neither_future_spikes_nor_any_covariate(session_and_model, stride):
    pieces, layout, model = session_and_model
    piece = Piece(0, pieces[0].spikes[:120], pieces[0].covariates[:120])
    before = slide(model, piece, layout, 50, stride)[0]
    spikes = piece.spikes.copy()
    spikes[60:] += 1
    after = slide(model, Piece(0, spikes, -piece.covariates), layout, 50, stride)[0]
    np.testing.assert_allclose(before[:60], after[:60], atol=1e-6)
    assert np.abs(before[60:] - after[60:]).max() > 1e-3


def test_expected_counts_are_those_of_the_spike_head_by_channel(session_and_model):
    pieces, layout, model = session_and_model
    piece = Piece(0, pieces[0].spikes[:30], pieces[0].covariates[:30])
    covariates, rates = slide(model, piece, layout, 30, 30, with_rates=True)
    np.testing.assert_array_equal(covariates, slide(model, piece, layout, 30, 30)[0])
    tokens = PackedTokens.from_numpy(packed([piece.window(0, 30)], layout, model.config))
    with torch.no_grad():
        logits = model.spike_logits(model.features(tokens), tokens)
    share = logits.softmax(-1).numpy().reshape(30, 2, 32, -1)
    for channel, (patch, place) in ((0, (0, 0)), (31, (0, 31)), (32, (1, 0)), (39, (1, 7))):
        expected = (share[:, patch, place] * np.arange(share.shape[-1])).sum(-1)
        np.testing.assert_allclose(rates[:, channel], expected, rtol=1e-4)
    # Later bins do not change them, nor do the channel's own counts in the bin.
    spikes = piece.spikes.copy()
    spikes[20, 39] += 3
    _, after = slide(model, Piece(0, spikes, piece.covariates), layout, 30, 30, with_rates=True)
    np.testing.assert_allclose(after[:21], rates[:21], atol=1e-6)
    assert np.abs(after[21:] - rates[21:]).max() > 1e-5


def packed(samples, layout, config):
    lists = TokenLists()
    for sample in samples:
        lists.add(*tokenise(sample, layout, config))
    return lists.pack()


def test_windows_put_back_together_are_the_session_and_keep_its_short_tail(corpus):
    opened = Corpus(corpus, ("test",))
    session, pieces = read_pieces(opened, "t-S-03")
    test = next(i for i in session.intervals if i.split == "test")
    assert [r.start_bin for r in pieces] == [test.start_bin]
    assert len(pieces[0]) == test.stop_bin - test.start_bin == 550  # not a multiple of 100
    with pytest.raises(BadInput, match="these have: t-S-03"):
        read_pieces(opened, "t-S-01")


def test_splitting_off_the_last_part_loses_nothing():
    pieces = [linear_run(100), linear_run(50)]
    first, last = split_last(pieces, 0.4)
    assert (sum(map(len, first)), sum(map(len, last))) == (90, 60)
    joined = np.concatenate([r.spikes for r in [*first, *last]])
    np.testing.assert_array_equal(joined, np.concatenate([r.spikes for r in pieces]))
    assert last[0].start_bin == 90

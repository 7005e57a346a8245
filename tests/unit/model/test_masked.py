"""The masked objective: hidden counts never leak, and what is hidden follows from the window."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from samples import sample_of
from streams import make_streams, walk

from ndt3_dist.config import PROJECT, check, load_config
from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput, ResumeMismatch, Unsupported
from ndt3_dist.evaluate.cosmooth import channels_of, cosmooth
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.metrics import BitsPerHiddenSpike, BitsPerSpike
from ndt3_dist.evaluate.online import OnlineDecoder
from ndt3_dist.model.flops import block_flops
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.objective.masking import draw_hidden, hidden_bins
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, NDT3Packing, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.manifest import Array, Session
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.start import check_same

ARRAYS = [32, 8]  # the second in a token of its own


@pytest.fixture
def config(tiny_model):
    changes = {"objective": "masked", "mask_ratio": 0.4, "mask_span": 3, "dropout": 0.0}
    return tiny_model.model_copy(update=changes)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return NDT3(config).eval()


def session_of() -> Session:
    arrays = [Array(name=name, channels=n) for name, n in zip("ab", ARRAYS, strict=True)]
    return Session.model_construct(id="s", arrays=arrays, covariates=["x", "y"])


def make_sample(seed: int, bins=20):
    draw = np.random.default_rng(seed)
    spikes = draw.poisson(0.5, (bins, sum(ARRAYS))).astype(np.uint8)
    return sample_of(spikes, draw.uniform(-1, 1, (bins, 2)).astype(np.float32))


def pack(config, samples, hidden):
    layout, lists = Layout.from_counts(ARRAYS, 2, config, "s"), TokenLists()
    for sample, h in zip(samples, hidden, strict=True):
        lists.add(*tokenise(sample, layout, config, hidden=h))
    return PackedTokens.from_numpy(lists.pack())


@pytest.mark.parametrize("bins", [1, 2, 7, 20, 100])
@pytest.mark.parametrize("span", [1, 3, 100])
def test_each_patch_has_as_many_hidden_bins_in_spans(config, bins, span):
    config = config.model_copy(update={"mask_span": span})
    drawn = [draw_hidden(bins, 5, config, np.random.default_rng(n)) for n in range(50)]
    number = hidden_bins(bins, config)
    assert number == max(1, round(0.4 * bins))
    assert all((h.sum(axis=0) == number).all() for h in drawn)
    # As likely anywhere, patch by patch for itself.
    share = np.mean(drawn, axis=(0, 2))
    assert np.abs(share - number / bins).max() < 0.15
    assert bins < 7 or any((h[:, :1] != h).any() for h in drawn)
    runs = np.array([(h & ~np.roll(h, 1, axis=0)).sum(axis=0).max() for h in drawn])
    most = -(-number // span) + (bins % span > 0)
    assert runs.max() <= most
    assert span > 1 or bins < 20 or runs.max() > number / 2


def test_counts_follow_from_the_index_alone(config):
    packing = NDT3Packing([session_of()], config)
    member = [("size", "<u4"), ("values", "<u4")]
    index = np.zeros(3, [("session", "<u4"), ("bins", "<u4"), *((s, member) for s in ("spikes",))])
    index["bins"] = lengths = [20, 9, 14]
    index["spikes"]["values"] = [40 * n for n in lengths]
    for number, bins in enumerate(lengths):
        window = packing.window(make_sample(number, bins), 0, lambda: np.random.default_rng(3))
        arrays = window.arrays
        hidden = arrays["spike_channels"][arrays["spike_hidden"]].sum()
        assert packing.counts(index)[number, 0] == hidden > 0
        assert packing.tokens(index)[number] == window.length


def test_hidden_counts_change_no_prediction_and_seen_ones_do(model):
    sample, hidden = make_sample(0), np.zeros((20, 2), bool)
    hidden[5:9, 0] = hidden[:, 1] = True
    before = model.features(pack(model.config, [sample], [hidden]))
    spikes = sample["spikes"].copy()
    spikes[:, 32:] += 2
    spikes[5:9] += 3
    other = sample_of(spikes, -sample["covariates"])
    after = model.features(pack(model.config, [other], [hidden]))
    assert torch.equal(before, after)
    spikes[19, 0] += 1
    after = model.features(pack(model.config, [sample_of(spikes, -spikes[:, :2])], [hidden]))
    assert (before - after).abs().amax(1).min() > 0  # each slot sees the last bin


def test_windows_of_a_row_see_nothing_of_each_other(model):
    samples, hidden = [make_sample(n) for n in range(3)], np.zeros((20, 2), bool)
    hidden[3:8] = True
    before = model.features(pack(model.config, samples, [hidden] * 3))
    samples[1] = make_sample(9)
    after = model.features(pack(model.config, samples, [hidden, ~hidden, hidden]))
    same = (before == after).all(1).view(3, -1)
    assert same[0].all()
    assert same[2].all()
    assert not same[1].any()


def test_the_loss_is_of_hidden_real_channels(model):
    hidden = draw_hidden(20, 2, model.config, np.random.default_rng(0))
    tokens = pack(model.config, [make_sample(0)], [hidden])
    out = model(tokens, 100, 10)
    scored = torch.from_numpy(hidden.reshape(-1))
    assert torch.equal(out.details["spike_losses"] > 0, scored)
    flat = model.spike_logits(model.features(tokens), tokens).log_softmax(-1)
    one = int(np.flatnonzero(hidden[:, 1])[0]) * 2 + 1  # a token of the array of eight
    targets = model.poisson[tokens.spikes[one].int()]
    expected = -(targets * flat[one]).sum(-1)[:8].sum()
    torch.testing.assert_close(out.details["spike_losses"][one], expected)
    torch.testing.assert_close(out.loss, out.sums[0] / 100 + out.sums[1] / 10)
    window = SimpleNamespace(
        arrays={"spike_hidden": hidden.reshape(-1), "spikes": tokens.spikes, "covariates": [0] * 40}
    )
    window.layout = Layout.from_counts(ARRAYS, 2, model.config, "s")
    rates = model.predictions(out, [window])[0]["spikes"]  # pyright: ignore[reportArgumentType]
    assert np.array_equal(np.isfinite(rates), np.repeat(hidden, ARRAYS, axis=1))


def test_ranks_and_micro_batches_hide_the_same_tokens(corpus, config):
    found = []
    for world, micro in ((1, 2), (4, 1)):
        steps = []
        for ranks in walk(make_streams(corpus, config, world, batch=(8, micro)), 3):
            batches = dict(batch for step in ranks for batch in step.batches)
            arrays = [batches[number] for number in sorted(batches)]
            hidden = np.concatenate([a["spike_hidden"] for a in arrays])
            channels = np.concatenate([a["spike_channels"] for a in arrays])
            assert {step.counts[0] for step in ranks} == {channels[hidden].sum()}
            steps.append(hidden.tobytes())
        found.append(steps)
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


@pytest.mark.parametrize("stride", [0, 1, 7])
def test_decoding_ends_with_the_bin_and_is_that_of_bins_as_they_arrive(model, stride):
    layout, sample = Layout.from_counts(ARRAYS, 2, model.config, "s"), make_sample(1, 30)
    piece = Piece(0, sample["spikes"], sample["covariates"])
    found, rates = slide(model, piece, layout, 8, stride, with_rates=True)
    spikes = piece.spikes.copy()
    spikes[20:] += 1
    later = Piece(0, spikes, -piece.covariates)
    again, after = slide(model, later, layout, 8, stride, with_rates=True)
    np.testing.assert_allclose(again[:20], found[:20], atol=1e-6)
    assert rates is not None
    assert after is not None
    np.testing.assert_allclose(after[:21], rates[:21], atol=1e-6)  # nor its own counts
    assert np.abs(after[21:] - rates[21:]).max() > 1e-4
    online = OnlineDecoder(model, layout, 8, keep=False)
    steps = np.stack([online.step(counts) for counts in piece.spikes])
    np.testing.assert_allclose(steps, found, atol=1e-5)


def test_keys_cannot_be_kept(model):
    with pytest.raises(Unsupported, match=r"masked model sees both directions.*--recompute"):
        StreamingDecoder(model, Layout.from_counts(ARRAYS, 2, model.config, "s"), 8)


def test_cosmoothing_sees_all_channels_but_those_held_out(model):
    layout, sample = Layout.from_counts(ARRAYS, 2, model.config, "s"), make_sample(2, 23)
    held_out = channels_of(session_of(), ["b"])
    assert held_out.tolist() == [*range(32, 40)]
    found = cosmooth(model, Piece(0, sample["spikes"], sample["covariates"]), layout, held_out, 8)
    assert found.shape == (23, 8)
    spikes = sample["spikes"].copy()
    spikes[:, 32:] += 1
    same = cosmooth(model, Piece(0, spikes, -sample["covariates"]), layout, held_out, 8)
    assert np.array_equal(found, same)
    spikes[22, :32] += 1
    other = cosmooth(model, Piece(0, spikes, sample["covariates"]), layout, held_out, 8)
    changed = np.abs(found - other).max(axis=1) > 0
    assert changed[18:].all()
    assert not changed[:18].any()
    hidden = np.tile([False, True], (8, 1))
    tokens = pack(model.config, [{k: v[4:12] for k, v in sample.items()}], [hidden])
    with torch.no_grad():
        logits = model.spike_logits(model.features(tokens), tokens).view(8, 2, 32, -1)
    middle = model.expected_counts(logits)[2:6, 1, :8]  # of the second window, those nearest
    np.testing.assert_allclose(found[6:10], middle, atol=1e-6)
    with pytest.raises(BadInput, match="no array 'c'; there are: a, b"):
        channels_of(session_of(), ["c"])
    with pytest.raises(BadInput, match=r"holds 32 channels, of which 1 are.*array of their own"):
        cosmooth(model, Piece(0, spikes, sample["covariates"]), layout, np.array([3]), 8)


def test_cosmoothing_is_refused_to_a_causal_model(tiny_model):
    layout, spikes = Layout.from_counts(ARRAYS, 2, tiny_model, "s"), np.zeros((9, 40), np.uint8)
    piece = Piece(0, spikes, np.zeros((9, 2), np.float32))
    with pytest.raises(BadInput, match=r"causal model predicts no.*model\.objective: masked"):
        cosmooth(NDT3(tiny_model).eval(), piece, layout, np.arange(32, 40), 8)


def test_bits_of_hidden_counts_are_bits_where_all_are_hidden():
    draw = np.random.default_rng(0)
    rates = draw.uniform(0.1, 1, (200, 5))
    counts = draw.poisson(rates)
    ours, plain = BitsPerHiddenSpike(), BitsPerSpike()
    expected = plain.scores(plain.sums(counts, rates))
    assert ours.scores(ours.sums(counts, rates)) == pytest.approx(expected)
    rates[:, 1] = rates[50:, 3] = np.nan
    counts[:, 1] = counts[50:, 3] = 99  # not looked at
    halves = ours.sums(counts[:100], rates[:100]) + ours.sums(counts[100:], rates[100:])
    bits = spikes = 0.0
    for c, r in ((counts[:, ::2], rates[:, ::2]), (counts[:50, 3:4], rates[:50, 3:4])):
        spikes += c.sum()
        bits += c.sum() * plain.scores(plain.sums(c, r))["bits_per_spike"]
    assert ours.scores(halves)["bits_per_spike"] == pytest.approx(bits / spikes)


def test_a_causal_config_is_written_as_it_was(tiny_model):
    told = tiny_model.model_dump(mode="json")
    assert not {"objective", "mask_ratio", "mask_span", "context", "identities"} & {*told}
    masked = {**told, "objective": "masked", "context": ["task"], "identities": ["task:t"]}
    config = check(ModelConfig, masked, "here")
    kept = json.loads(config.model_dump_json())
    assert kept["mask_ratio"] == 0.3
    assert kept["identities"] == ["task:t"]
    assert check(ModelConfig, kept, "there") == config
    with pytest.raises(BadInput, match=r"covariate_mask_rate is 0\.5; in a masked model"):
        check(ModelConfig, {**masked, "covariate_mask_rate": 0.5}, "here")
    with pytest.raises(BadInput, match="context has one value twice"):
        check(ModelConfig, {**masked, "context": ["task", "task"]}, "here")


@pytest.mark.parametrize("key", ["objective=masked", "context=[subject]"])
def test_a_run_goes_on_with_its_own_objective_and_context(key):
    path = PROJECT / "configs" / "demo.yaml"
    plain, other = (load_config(PretrainConfig, path, o) for o in ([], [f"model.{key}"]))
    for before, now in ((plain, other), (other, plain)):
        start = SimpleNamespace(meta={"config": before.model_dump(mode="json")}, folder="f")
        check_same(before, start)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ResumeMismatch, match=rf"model\.{key.partition('=')[0]} was"):
            check_same(now, start)  # pyright: ignore[reportArgumentType]


def test_all_pairs_count_as_operations(config, tiny_model):
    of_pair = 4 * config.dim * config.layers
    more = block_flops(config, [7, 5]) - block_flops(tiny_model, [7, 5])
    assert more == of_pair * (7 * 6 // 2 + 5 * 4 // 2)

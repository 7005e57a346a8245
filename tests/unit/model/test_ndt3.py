"""The model: windows are independent, the future is hidden, exports round-trip."""

import json

import numpy as np
import pytest
import torch
from samples import sample_of

import ndt3_dist
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.losses import poisson_targets
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens


def make_sample(seed, bins=20, channels=40, dims=2):
    draw = np.random.default_rng(seed)
    spikes = draw.poisson(0.3, (bins, channels)).astype(np.uint8)
    return sample_of(spikes, draw.uniform(-1, 1, (bins, dims)).astype(np.float32))


def pack(samples, config):
    layout = Layout.from_counts([40], 2, config, "s")
    lists = TokenLists()
    for sample in samples:
        lists.add(*tokenise(sample, layout, config))
    return PackedTokens.from_numpy(lists.pack())


@pytest.fixture
def model(tiny_model):
    torch.manual_seed(0)
    return NDT3(tiny_model).eval()


def test_changing_one_window_leaves_the_others_bit_identical(model):
    samples = [make_sample(i) for i in range(4)]
    tokens = pack(samples, model.config)
    before = model.features(tokens)
    samples[2] = make_sample(99)
    after = model.features(pack(samples, model.config))
    cu = tokens.cu_seqlens.tolist()
    for i in range(4):
        same = torch.equal(before[cu[i] : cu[i + 1]], after[cu[i] : cu[i + 1]])
        assert same == (i != 2)


def test_a_prediction_never_sees_its_future(model):
    sample = make_sample(0)
    before = model.features(pack([sample], model.config))
    spikes = sample["spikes"].copy()
    spikes[12:] += 1
    after = model.features(pack([sample_of(spikes, sample["covariates"])], model.config))
    per_bin = 2 + 2  # patches and covariates
    # Slot 12 * per_bin predicts the first spikes of bin 12 from all before it.
    assert torch.equal(before[: 12 * per_bin + 1], after[: 12 * per_bin + 1])
    # The covariates of bin 12 do see its spikes, as online.
    assert not torch.equal(before[12 * per_bin + 2], after[12 * per_bin + 2])


def test_covariates_are_never_an_input_when_all_are_blanked(model):
    sample = make_sample(0)
    other = sample_of(sample["spikes"], -sample["covariates"])
    one, two = (model.features(pack([s], model.config)) for s in (sample, other))
    assert torch.equal(one, two)


def test_missing_covariates_are_masked_not_imputed(model):
    sample = make_sample(0)
    gap = sample["covariates"].copy()
    gap[5:9, 1] = np.nan
    whole, holed = (
        pack([sample], model.config),
        pack([sample_of(sample["spikes"], gap)], model.config),
    )
    assert int(whole.covariate_valid.sum()) - int(holed.covariate_valid.sum()) == 4
    full, part = model(whole, 1, 1), model(holed, 1, 1)
    lost = (full.details["covariates"] - whole.covariates)[~holed.covariate_valid] ** 2
    torch.testing.assert_close(full.sums[1] - part.sums[1], lost.sum())


def test_poisson_targets_are_distributions_but_for_the_last_row():
    table = poisson_targets(22)
    torch.testing.assert_close(table[:-1].sum(1), torch.ones(21))
    assert table[0, 0] == 1
    assert (table[-1] == 0).all()
    assert table[3].argmax() in (2, 3)


def export(model, folder):
    weights = {n: p.detach() for n, p in model.named_parameters()}
    trained = {"run": "r", "step": 1, "epochs": 0.5, "corpus": "c" * 64}
    norms = {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {"s": {"covariates": []}}}
    config = describe_export(model.config, weights, "fp32", trained)
    write_export(folder, weights, config, norms)


def test_an_export_loads_to_bit_identical_features(model, tmp_path):
    export(model, tmp_path / "e")
    loaded = ndt3_dist.load_model(tmp_path / "e")
    tokens = pack([make_sample(1)], model.config)
    assert torch.equal(loaded.features(tokens), model.features(tokens))
    assert torch.equal(loaded(tokens, 1, 1).loss, model(tokens, 1, 1).loss)


def test_an_export_is_never_written_over_another(model, tmp_path):
    export(model, tmp_path / "e")
    with pytest.raises(BadInput, match="not empty"):
        export(model, tmp_path / "e")


def test_damaged_exports_are_refused_by_name(model, tmp_path):
    with pytest.raises(CheckpointCorrupt, match=r"no config\.json"):
        ndt3_dist.load_model(tmp_path)
    export(model, tmp_path / "e")
    config = tmp_path / "e" / "config.json"
    values = json.loads(config.read_text())
    values["model"]["layers"] = 3
    config.write_text(json.dumps(values))
    with pytest.raises(CheckpointCorrupt, match=r"do not fit config\.json"):
        ndt3_dist.load_model(tmp_path / "e")
    weights = tmp_path / "e" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointCorrupt, match=r"model\.safetensors"):
        ndt3_dist.load_model(tmp_path / "e")


def test_what_spikes_are_scored_against_is_not_rounded_with_the_weights(tiny_model):
    model = NDT3(tiny_model).to(torch.bfloat16)
    assert model.poisson.dtype == torch.float32
    assert torch.equal(model.poisson, poisson_targets(tiny_model.count_classes))

"""Where a fine-tune starts: what comes from an export, what is new, and what is refused."""

import numpy as np
import pytest
import torch
from samples import sample_of

from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.model.load import load_model
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.space_ids import SpaceIds
from ndt3_dist.model.tokenise import Layout, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.tune.parts import PARTS, part_of, parts_table
from ndt3_dist.tune.transfer import start_model
from ndt3_dist.tune.tune_config import TuneConfig

GOLDEN = PROJECT.parent / "shared" / "golden" / "micro"
TRAINED = {"run": "r", "step": 1, "epochs": 0.0, "corpus": "0" * 64}


def tune(*overrides: str) -> TuneConfig:
    return load_config(TuneConfig, PROJECT / "configs" / "tune_session.yaml", overrides)


def export_model(model: NDT3, folder) -> str:
    weights = {n: p.detach() for n, p in model.named_parameters()}
    norms = {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {}}
    write_export(folder, weights, describe_export(model.config, weights, "fp32", TRAINED), norms)
    return str(folder)


@pytest.fixture
def pretrained(tmp_path, tiny_model) -> str:
    torch.manual_seed(5)
    return export_model(NDT3(tiny_model), tmp_path / "export")


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters()}


def test_without_options_every_weight_is_the_exports(pretrained):
    model, new = start_model(tune("train.dropout=0.3"), pretrained, False)
    assert new == set()
    assert all(p.requires_grad for p in model.parameters())
    source = weights_of(load_model(pretrained))
    assert all(torch.equal(w, source[n]) for n, w in weights_of(model).items())
    assert model.config.dropout == 0.3


@pytest.mark.parametrize("reinit", [["spikes"], ["covariates", "embeddings"], list(PARTS)])
def test_only_the_parts_of_reinit_are_new(pretrained, reinit):
    model, new = start_model(tune(f"transfer.reinit={reinit}"), pretrained, False)
    source = weights_of(load_model(pretrained))
    fresh = weights_of(start_model(tune(), pretrained, True)[0])
    for name, weight in weights_of(model).items():
        assert (name in new) == (part_of(name) in reinit)
        assert torch.equal(weight, (fresh if name in new else source)[name]), name
    assert any(not torch.equal(source[n], fresh[n]) for n in new)


def test_another_patch_size_needs_new_spike_weights(pretrained):
    overrides = ["transfer.channels_per_token=16", "transfer.max_channels=160"]
    with pytest.raises(BadInput) as e:
        start_model(tune(*overrides), pretrained, False)
    message = str(e.value)
    assert "spike_in.weight is (21, 2), needed (21, 4)" in message
    assert "spike_out.weight is (704, 64), needed (352, 64)" in message
    assert "start spikes anew with transfer.reinit" in message
    with pytest.raises(BadInput, match="start spikes anew"):
        start_model(tune(*overrides, "transfer.reinit=[covariates]"), pretrained, False)
    model, new = start_model(tune(*overrides, "transfer.reinit=[spikes]"), pretrained, False)
    assert new == {"spike_in.weight", "spike_out.weight", "spike_out.bias"}
    assert model.config.channels_per_token == 16
    source = weights_of(load_model(pretrained))
    assert all(torch.equal(w, source[n]) for n, w in weights_of(model).items() if n not in new)


def test_a_config_that_cannot_be_is_refused(pretrained):
    with pytest.raises(BadInput, match="dim 64 is not a multiple of channels_per_token"):
        start_model(tune("transfer.channels_per_token=24"), pretrained, False)
    said = (
        r"with transfer\.behavior_dim=20: .*space ids run to 51, max_space is 48; lower .*320: 10"
    )
    with pytest.raises(BadInput, match=said):
        start_model(tune("transfer.behavior_dim=20"), pretrained, False)


def features(model: NDT3, dims: int = 2) -> torch.Tensor:
    """Of a window of 5 bins and 40 channels, spikes only."""
    spikes = np.arange(200, dtype=np.uint8).reshape(5, 40) % 4
    sample = sample_of(spikes, np.full((5, dims), np.nan, np.float32))
    layout = Layout.from_counts([40], dims, model.config, "s")
    arrays, length = tokenise(sample, layout, model.config)
    arrays["cu_seqlens"] = np.array([0, length], np.int32)
    with torch.no_grad():
        return model.eval().features(PackedTokens.from_numpy(arrays))


@pytest.mark.parametrize(
    ("change", "dims"),
    [("behavior_dim=3", 2), ("behavior_dim=18", 17), ("max_channels=64", 2)],
)
def test_rows_of_the_space_table_stay_or_move_along(tmp_path, tiny_model, capsys, change, dims):
    """By number they come to mean something else, by meaning nothing changes."""
    torch.manual_seed(5)
    config = tiny_model.model_copy(update={"context_tokens": True})
    folder = export_model(NDT3(config), tmp_path / "export")
    before = features(load_model(folder), dims)
    table = load_model(folder).space.weight
    stay = start_model(tune("transfer." + change), folder, False)[0]
    assert f"covariates 29 -> {SpaceIds.of(stay.config).covariates}" in capsys.readouterr().out
    assert torch.equal(stay.space.weight, table)
    assert not torch.equal(features(stay, dims), before)
    overrides = ["transfer." + change, "transfer.space_rows=by_meaning"]
    along = start_model(tune(*overrides), folder, False)[0]
    assert SpaceIds.of(along.config) != SpaceIds.of(config)
    assert torch.equal(features(along, dims), before)


def test_names_of_parts_are_checked(pretrained):
    with pytest.raises(BadInput, match=r"train\.freeze: no part 'backbon' \(did you mean backbone"):
        start_model(tune("train.freeze=[backbon]"), pretrained, False)
    with pytest.raises(BadInput, match=r"transfer\.reinit: no part 'qqq' \(expected of readin, "):
        start_model(tune("transfer.reinit=[qqq]"), pretrained, False)
    with pytest.raises(BadInput, match=r"spikes: both in transfer\.reinit and in train\.freeze"):
        start_model(tune("transfer.reinit=[spikes]", "train.freeze=[spikes]"), pretrained, False)
    with pytest.raises(BadInput, match=r"lora\.rank updates readin too"):
        start_model(tune("train.freeze=[readin]", "lora.rank=2"), pretrained, False)
    with pytest.raises(BadInput, match=r"lora\.rank freezes readin"):
        start_model(tune("transfer.reinit=[readin]", "lora.rank=2"), pretrained, False)
    with pytest.raises(BadInput, match=r"lora\.rank freezes backbone"):
        start_model(tune("transfer.reinit=[backbone]", "lora.rank=2"), pretrained, False)
    with pytest.raises(BadInput, match="leaves nothing to train"):
        start_model(tune(f"train.freeze={[*PARTS]}"), pretrained, False)
    with pytest.raises(BadInput, match=r"unknown key transfer\.behaviour_dim \(did you mean beh"):
        tune("transfer.behaviour_dim=3")


def test_every_parameter_is_in_a_part_and_the_first_projection_in_its_own(tiny_model):
    names = [name for name, _ in NDT3(tiny_model).named_parameters()]
    assert {part_of(name) for name in names} == set(PARTS)
    first = [name for name in names if part_of(name) == "readin"]
    assert first == ["blocks.0.attention.qkv.weight", "blocks.0.attention.qkv.bias"]


def test_from_scratch_everything_is_new_and_trained(pretrained, capsys):
    overrides = ["train.freeze=[backbone]", "lora.rank=2", "transfer.channels_per_token=64"]
    model, new = start_model(tune(*overrides), pretrained, True)
    assert new == set(weights_of(model))
    assert all(p.requires_grad for p in model.parameters())
    assert model.config.channels_per_token == 64
    assert "train.freeze and lora set aside" in capsys.readouterr().out


def test_the_table_says_what_is_loaded_new_and_frozen(pretrained, capsys):
    overrides = ["transfer.reinit=[spikes]", "train.freeze=[embeddings]", "lora.rank=2"]
    model, new = start_model(tune(*overrides), pretrained, False)
    printed = capsys.readouterr().out
    rows = {(r["part"], r["from"], r["state"]): r for r in parts_table(model, new)}
    readin = 192 * 64 + 192
    backbone = sum(p.numel() for p in load_model(pretrained).blocks.parameters()) - readin
    assert rows["backbone", "loaded", "frozen"]["parameters"] == f"{backbone:,}"
    assert rows["embeddings", "loaded", "frozen"]["tensors"] == 2
    assert rows["spikes", "new", "trained"]["parameters"] == f"{21 * 2 + 65 * 704:,}"
    for part in ("readin", "backbone"):
        line = [part, "new", "trained", "2", f"{2 * (64 + 192):,}"]
        assert line in [found.split() for found in printed.split("\n")]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden outputs are not beside the checkout")
def test_a_transfer_gives_what_the_originals_transfer_gives(tmp_path, monkeypatch):
    """No context tokens, and the space ids of another behavior_dim under the old weights."""
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "golden"))
    import compare
    from original import Original

    original = Original.read(GOLDEN)
    trace = original.outputs.part("tune_trace.")
    dims = int(trace["space"][trace["modalities"] == 0].min()) - 1
    assert dims != original.config().behavior_dim
    folder = export_model(original.model(original.config()), tmp_path / "export")
    change = [f"transfer.behavior_dim={dims}", "transfer.context_tokens=false"]
    batch = original.outputs.part("tune_batch.")
    model = start_model(tune(*change), folder, False)[0].eval()
    rows = compare.compare_pass(model, batch, trace, "tuned")
    assert {r.what for r in rows} >= {"tuned features", "tuned order of tokens", "tuned covariates"}
    assert not [r for r in rows if not r.passes]
    along = start_model(tune(*change, "transfer.space_rows=by_meaning"), folder, False)[0].eval()
    rows = compare.compare_pass(along, batch, trace, "tuned")
    assert [r for r in rows if not r.passes]


def test_a_model_section_is_changed_like_an_export(tiny_model):
    config = tune("transfer.context_tokens=true")
    config = config.model_copy(update={"model": tiny_model})
    assert isinstance(config.model, ModelConfig)
    assert start_model(config, None, False)[0].config.context_tokens

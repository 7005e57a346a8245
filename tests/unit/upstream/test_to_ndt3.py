"""The way back: upstream's own file with other weights in it, and nothing else changed."""

import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from lightning_file import (
    POISSON,
    SMALL,
    TUNED,
    upstream_modules,
    upstream_order,
    write_lightning,
)
from safetensors.torch import load_file, save_file

from ndt3_dist import storage
from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import load_model
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.upstream.from_ndt3 import import_checkpoint
from ndt3_dist.upstream.to_ndt3 import to_ndt3

FC1, SPACE = "backbone.layers.0.mlp.fc1.weight", "backbone.space_encoder.weight"


def make(tmp_path, name, **arguments):
    """A checkpoint and its export."""
    state = write_lightning(tmp_path / f"{name}.ckpt", **arguments)
    import_checkpoint(tmp_path / f"{name}.ckpt", tmp_path / name)
    return state


def torch_load(path):
    """What torch's own loader makes of a file, with stand-ins for upstream's classes."""
    with upstream_modules():
        return torch.load(path, weights_only=False)  # a file that this test wrote


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_there_and_back_is_bit_identical(tmp_path):
    make(tmp_path, "a", seed=1)
    make(tmp_path, "b", seed=2)
    done = to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    assert done == {"written": 32, "reset": 96}
    import_checkpoint(tmp_path / "c.ckpt", tmp_path / "c")
    assert weights(tmp_path / "c") == weights(tmp_path / "a") != weights(tmp_path / "b")


def may_change(path):
    """Which bytes of an archive are those of a storage, or a CRC of one: in the list or behind."""
    data = path.read_bytes()
    mask = np.zeros(len(data), bool)
    with zipfile.ZipFile(path) as archive:
        entry = archive.start_dir
        for member in archive.infolist():
            if "/data/" in member.filename:
                name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
                start = member.header_offset + 30 + name + extra
                end = start + member.file_size
                assert data[end : end + 4] == b"PK\x07\x08"
                mask[start:end] = mask[end + 4 : end + 8] = mask[entry + 16 : entry + 20] = True
            entry += 46 + sum(struct.unpack_from("<HHH", data, entry + 28))
    return mask


def test_only_tensors_and_their_crcs_change(tmp_path):
    """Pickle, settings, Poisson table, sizes and every offset are the template's."""
    make(tmp_path, "a", seed=1)
    make(tmp_path, "b", seed=2)
    to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    b, c = (np.frombuffer((tmp_path / f"{n}.ckpt").read_bytes(), np.uint8) for n in "bc")
    assert len(b) == len(c)
    mask = may_change(tmp_path / "b.ckpt")
    assert (b[~mask] == c[~mask]).all()
    assert (b[mask] != c[mask]).mean() > 0.5
    with zipfile.ZipFile(tmp_path / "c.ckpt") as archive:
        assert archive.testzip() is None


def test_torchs_own_loader_opens_it_with_the_new_weights_and_a_fresh_adamw(tmp_path):
    a, b = make(tmp_path, "a", seed=1), make(tmp_path, "b", seed=2)
    to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    found = torch_load(tmp_path / "c.ckpt")
    assert list(found["state_dict"]) == list(b)
    for key, value in found["state_dict"].items():
        assert torch.equal(value, a[key]) if torch.is_tensor(value) else value == b[key], key
    assert found["hyper_parameters"]["cfg"]._content["hidden_size"]._val == 64
    states = found["optimizer_states"][0]["state"].values()
    assert not any(t.any() for entry in states for t in entry.values())
    parameters = [torch.nn.Parameter(a[key].clone()) for key in upstream_order(SMALL)]
    adam = torch.optim.AdamW(parameters)
    adam.load_state_dict(found["optimizer_states"][0])
    fresh = torch.optim.AdamW([torch.nn.Parameter(p.detach().clone()) for p in parameters], lr=1e-4)
    for optimizer in (adam, fresh):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p, q in zip(parameters, fresh.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_a_template_that_another_program_zipped_will_do(tmp_path):
    """Its CRCs stand before the bytes, where torch has them behind."""
    make(tmp_path, "a", seed=1)
    write_lightning(tmp_path / "b.ckpt", seed=2)
    with (
        zipfile.ZipFile(tmp_path / "b.ckpt") as old,
        zipfile.ZipFile(tmp_path / "d.ckpt", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "d.ckpt")
    import_checkpoint(tmp_path / "c.ckpt", tmp_path / "c")
    assert weights(tmp_path / "c") == weights(tmp_path / "a")
    torch_load(tmp_path / "c.ckpt")
    data = (tmp_path / "c.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "c.ckpt") as archive:
        for member in archive.infolist():
            assert not member.flag_bits & 8
            assert struct.unpack_from("<I", data, member.header_offset + 14) == (member.CRC,)


def test_views_into_shared_storages_are_filled_in_their_place(tmp_path):
    """Transposed, with an offset, several in one storage, with elements that belong to none."""
    shared = torch.full((60_000,), 5.0)

    def views(state):
        fc1, space = state[FC1], state[SPACE]
        state[FC1] = torch.as_strided(shared, fc1.shape, (1, fc1.shape[0]), 3)
        state[SPACE] = torch.as_strided(shared, space.shape, (space.shape[1] + 1, 1), 40_000)
        return state

    make(tmp_path, "a", seed=1)
    write_lightning(tmp_path / "b.ckpt", edit_state=views)
    to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    import_checkpoint(tmp_path / "c.ckpt", tmp_path / "c")
    assert weights(tmp_path / "c") == weights(tmp_path / "a")
    held = torch_load(tmp_path / "c.ckpt")["state_dict"][FC1].untyped_storage()
    whole = torch.tensor([], dtype=torch.float32).set_(held, 0, (60_000,))
    assert whole[:3].tolist() == [5, 5, 5]
    assert (whole == 5).sum() == 60_000 - 512 * 64 - 49 * 64


def test_entries_that_share_bytes_must_have_equal_values(tmp_path):
    bias = "backbone.layers.{}.mlp.fc2.bias"

    def tied(state):
        state[bias.format(1)] = state[bias.format(0)]
        return state

    make(tmp_path, "a", seed=1)
    write_lightning(tmp_path / "b.ckpt", edit_state=tied)
    with pytest.raises(BadInput, match=r"mlp\.fc2\.bias shares bytes with another entry"):
        to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    import_checkpoint(tmp_path / "b.ckpt", tmp_path / "b")
    to_ndt3(tmp_path / "b", tmp_path / "c.ckpt", tmp_path / "b.ckpt")  # equal values have a place

    def with_poisson(state):
        table = torch.zeros(22 * 22 + 64)
        table[: 22 * 22] = state[POISSON].flatten()
        state[POISSON] = table[: 22 * 22].view(22, 22)
        state[bias.format(0)] = table[400:464]
        return state

    write_lightning(tmp_path / "d.ckpt", edit_state=with_poisson)
    with pytest.raises(BadInput, match="poisson_map shares bytes"):
        to_ndt3(tmp_path / "a", tmp_path / "e.ckpt", tmp_path / "d.ckpt")

    def with_moments(content):
        state = content["optimizer_states"][0]["state"]
        state[0]["exp_avg"] = content["state_dict"]["start_of_sentence"]
        return content

    write_lightning(tmp_path / "f.ckpt", edit_content=with_moments)
    with pytest.raises(CheckpointCorrupt, match="belongs to the model and to its optimiser"):
        to_ndt3(tmp_path / "a", tmp_path / "e.ckpt", tmp_path / "f.ckpt")


@pytest.mark.parametrize("compiled", [False, True])
def test_a_fine_tuned_template_takes_what_it_has(tmp_path, compiled):
    config = SMALL.model_copy(update={"context_tokens": False, "behavior_dim": 3})

    def rename(state):
        if not compiled:
            return state
        return OrderedDict(
            (k.replace("backbone.", "backbone._orig_mod."), v) for k, v in state.items()
        )

    make(tmp_path, "a", config=config, tuned=True, seed=1)
    write_lightning(tmp_path / "b.ckpt", config, tuned=True, edit_state=rename)
    assert to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")["written"] == 29
    import_checkpoint(tmp_path / "c.ckpt", tmp_path / "c")
    assert weights(tmp_path / "c") == weights(tmp_path / "a")


@pytest.mark.parametrize(
    ("update", "arguments", "said"),
    [
        ({"behavior_dim": 3}, {}, "behavior_dim is 3"),
        ({"heads": 1}, {}, "heads is 1"),
        ({"layers": 1}, {}, "layers is 1"),
        ({"feedforward": 512}, {"edit_settings": lambda s: s}, "feedforward is 512"),
        ({"context_tokens": False}, {"tuned": True}, "context_tokens is False"),
        (
            {},
            {"edit_state": lambda s: {**s, "lora.A": torch.zeros(1)}},
            r"lora\.A is not in the exp",
        ),
        (
            {},
            {"edit_state": lambda s: {k: v for k, v in s.items() if "out_proj.bias" not in k}},
            r"out_proj\.bias is not in the template",
        ),
        ({}, {"edit_state": lambda s: {**s, FC1: torch.zeros(2)}}, r"fc1\.weight has shape \(2,\)"),
        ({}, {"edit_state": lambda s: {**s, FC1: s[FC1].half()}}, r"fc1\.weight .* torch\.float16"),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path, update, arguments, said):
    make(tmp_path, "a")
    config = SMALL.model_copy(update=update)
    if "feedforward" in update:
        arguments = {"edit_settings": lambda s: {**s, "cfg.transformer.feedforward_factor": 8.0}}
    write_lightning(tmp_path / "b.ckpt", config, **arguments)
    with pytest.raises(BadInput, match=said):
        to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    assert not (tmp_path / "c.ckpt").exists()
    assert not list(tmp_path.glob(".c.ckpt*"))


@pytest.mark.parametrize("tuned", [False, True])
def test_without_a_template_it_is_a_plain_state_dict_in_upstreams_order(tmp_path, tuned):
    config = SMALL.model_copy(update={"context_tokens": not tuned})
    state = make(tmp_path, "a", config=config, tuned=tuned)
    to_ndt3(tmp_path / "a", tmp_path / "plain.ckpt")
    found = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    assert list(found) == list(state)
    assert any(key.startswith(TUNED) for key in found) != tuned
    for key, value in state.items():
        if torch.is_tensor(value):
            assert torch.equal(found[key], value), key
    assert sorted(found["_extra_state"]) == [
        "novel_params",
        "token_proc_approx",
        "token_seen_approx",
    ]


def test_bf16_exports_go_back_as_the_same_numbers(tmp_path):
    make(tmp_path, "a")
    config = storage.read_json(tmp_path / "a" / "config.json")
    rounded = {k: v.bfloat16() for k, v in load_file(tmp_path / "a" / "model.safetensors").items()}
    save_file(rounded, tmp_path / "a" / "model.safetensors")
    storage.write_json(tmp_path / "a" / "config.json", {**config, "dtype": "bf16"})
    to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "c.ckpt", tmp_path / "c")
    for name, parameter in load_model(tmp_path / "c").named_parameters():
        assert torch.equal(parameter, rounded[name].float())


def test_an_existing_file_is_left_alone(tmp_path):
    make(tmp_path, "a")
    before = (tmp_path / "a.ckpt").read_bytes()
    for like in (None, tmp_path / "a.ckpt"):
        with pytest.raises(BadInput, match="exists"):
            to_ndt3(tmp_path / "a", tmp_path / "a.ckpt", like)
    assert (tmp_path / "a.ckpt").read_bytes() == before


def test_a_hostile_template_is_refused(tmp_path):
    make(tmp_path, "a")

    class Evil:
        def __reduce__(self):
            return (tmp_path / "it_ran").touch, ()

    write_lightning(tmp_path / "b.ckpt", edit_content=lambda c: {**c, "callbacks": Evil()})
    with pytest.raises(CheckpointCorrupt, match=r"names __builtin__\.getattr"):
        to_ndt3(tmp_path / "a", tmp_path / "c.ckpt", tmp_path / "b.ckpt")
    assert not (tmp_path / "it_ran").exists()
    assert not (tmp_path / "c.ckpt").exists()
    torch_load(tmp_path / "b.ckpt")
    assert (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("change", [{"objective": "masked"}, {"context": ("task",)}])
def test_what_upstream_does_not_have_is_refused(tiny_model, tmp_path, change):
    values = {**change, "identities": ("task:t",)} if "context" in change else change
    model = tiny_model.model_copy(update=values)
    tensors = {name: p.detach() for name, p in NDT3(model).named_parameters()}
    told = {"run": "r", "step": 1, "epochs": 0.0, "corpus": "c" * 64}
    norms = {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {}}
    write_export(tmp_path / "e", tensors, describe_export(model, tensors, "fp32", told), norms)
    with pytest.raises(BadInput, match="NDT3's own code has causal models without identities"):
        to_ndt3(tmp_path / "e", tmp_path / "out.pt")

"""NDT3's own checkpoints become exports: all of their weights, or nothing."""

import re
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_file import POISSON, SMALL, upstream_order, write_lightning
from safetensors.torch import load_file, save_file

from ndt3_dist.checkpoint import lineage
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.evaluate.session import evaluate, export_scale
from ndt3_dist.model.load import load_model, read_export_config, read_normalisation
from ndt3_dist.model.space_ids import SpaceIds
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.tune_config import TuneConfig
from ndt3_dist.upstream.from_ndt3 import import_checkpoint
from ndt3_dist.upstream.lightning import LightningFile
from ndt3_dist.upstream.names import to_upstream
from ndt3_dist.upstream.state_dict import make_plan, read_weights
from ndt3_dist.upstream.to_ndt3 import to_ndt3

Q_NORM = "backbone.layers.1.mixer.q_norm.weight"


@pytest.mark.parametrize("behavior_dim", [3, 8, 17])
def test_weights_sizes_and_space_ids_arrive(tmp_path, behavior_dim):
    config = SMALL.model_copy(update={"behavior_dim": behavior_dim})
    state = write_lightning(tmp_path / "a.ckpt", config)
    described, rows = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    model = load_model(tmp_path / "out")
    assert model.config == config
    ids = SpaceIds.of(model.config)
    assert (ids.constraint, ids.spikes, ids.returns) == (1, 1 + behavior_dim, 3 + behavior_dim)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[to_upstream(name)]), name
    assert {r["outcome"] for r in rows if r["parameter"] != "-"} == {"loaded"}
    assert {r["upstream"] for r in rows if r["parameter"] == "-"} == {"_extra_state", POISSON}
    assert described == read_export_config(tmp_path / "out")
    assert described["trained"]["step"] == 7
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "normalisation.json",
    ]


def test_an_import_has_a_bin_size_and_no_scales(tmp_path):
    """Whoever decodes with it stays in units of the scale of the session that is decoded."""
    write_lightning(tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    norms = read_normalisation(tmp_path / "out")
    assert norms == {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {}}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "units of the scale of the session" in card
    assert "Nobody wrote down which sessions" in card
    (stage,) = lineage.of_export(read_export_config(tmp_path / "out"))
    assert (stage["corpus"], stage["steps"], stage["sessions"]) == ("unknown", 7, None)
    manifest = SimpleNamespace(bin_size_ms=20.0)
    session, scale = SimpleNamespace(id="s"), np.array([3.0])
    data = SimpleNamespace(manifest=manifest, session=session, scale=scale)
    assert export_scale(str(tmp_path / "out"), data).tolist() == [3.0]  # type: ignore[arg-type]
    manifest.bin_size_ms = 50.0
    with pytest.raises(BadInput, match="decodes bins of 20 ms, the corpus has 50"):
        export_scale(str(tmp_path / "out"), data)  # type: ignore[arg-type]


def test_compiled_models_have_the_same_weights(tmp_path):
    def compiled(state):
        rename = {k: k.replace("backbone.", "backbone._orig_mod.") for k in state}
        return OrderedDict((rename[k], v) for k, v in state.items())

    write_lightning(tmp_path / "a.ckpt")
    write_lightning(tmp_path / "b.ckpt", edit_state=compiled)
    for name in ("a", "b"):
        import_checkpoint(tmp_path / f"{name}.ckpt", tmp_path / name, with_optimizer=True)
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = ((tmp_path / n / file).read_bytes() for n in ("a", "b"))
        assert a == b

    def twice(state):
        return OrderedDict([*compiled(state).items(), (Q_NORM, state[Q_NORM])])

    write_lightning(tmp_path / "c.ckpt", edit_state=twice)
    with pytest.raises(CheckpointCorrupt, match=f"{Q_NORM} is in the state dict twice"):
        import_checkpoint(tmp_path / "c.ckpt", tmp_path / "c")


def test_a_fine_tuned_checkpoint_gets_new_context_parts(tmp_path):
    config = SMALL.model_copy(update={"behavior_dim": 3, "context_tokens": False})
    state = write_lightning(tmp_path / "a.ckpt", config, tuned=True)
    described, rows = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "one", with_optimizer=True)
    new = ["constraint_in", "return_in.weight", "reward_in.weight"]
    assert described["trained"]["new"] == new
    assert [r["parameter"] for r in rows if r["outcome"] == "new, seed 0"] == new
    model = load_model(tmp_path / "one")
    assert model.config == config
    for name, parameter in model.named_parameters():
        if name not in new:
            assert torch.equal(parameter, state[to_upstream(name)]), name
    torch.rand(7)
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "two")
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one), "new weights differ"
    moments = load_file(tmp_path / "one" / "optimizer.safetensors")
    assert not moments["exp_avg.constraint_in"].any()


def drop(key):
    return lambda state: OrderedDict((k, v) for k, v in state.items() if k != key)


def put(key, value):
    return lambda state: OrderedDict([*state.items(), (key, value)])


@pytest.mark.parametrize(
    ("edit", "said", "new", "skipped"),
    [
        (drop(Q_NORM), f"{Q_NORM} is missing", 1, 2),
        (drop("task_pipelines.constraints.constraint_dims"), "constraint_dims is missing", 1, 2),
        (put(Q_NORM, torch.zeros(3)), rf"{Q_NORM} has shape \(3,\)", 1, 2),
        (put(Q_NORM, torch.zeros(32, dtype=torch.int64)), f"{Q_NORM} has shape .*int64", 1, 2),
        (put("lora.A", torch.zeros(3)), r"lora\.A is no parameter of ours", 0, 3),
        (put("lora.A", "text"), r"lora\.A is text, not a tensor", 0, 3),
        (put(POISSON, torch.zeros(22, 22).double()), "poisson_map has other targets", 0, 2),
        (put(POISSON, torch.zeros(22, 22)), "poisson_map has other targets", 0, 2),
    ],
)
def test_what_does_not_fit_fails_unless_partial(tmp_path, edit, said, new, skipped):
    write_lightning(tmp_path / "a.ckpt", edit_state=edit)
    with pytest.raises(CheckpointCorrupt, match=f"1 entries do not fit.*{said}.*--allow-partial"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    described, rows = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", allow_partial=True)
    load_model(tmp_path / "out")
    assert len(described["trained"]["new"]) == new
    assert sum(r["outcome"].startswith("skipped") for r in rows) == skipped


def test_a_partial_import_needs_half_of_the_model(tmp_path):
    """Settings of a huge model beside a few tensors: nothing of its size is made."""
    huge = {"cfg.hidden_size": 2**16, "cfg.transformer.n_state": 2**16}
    huge["cfg.transformer.feedforward_factor"] = 2**-8
    write_lightning(tmp_path / "a.ckpt", edit_settings=lambda s: {**s, **huge})
    with pytest.raises(CheckpointCorrupt, match="expected at least half"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", allow_partial=True)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("cfg.transformer.n_heads", 4, "q_norm.weight has shape"),
        ("cfg.transformer.n_layers", 3, r"n_layers is 3, the state dict has 2 of backbone\.layers"),
        ("cfg.transformer.n_layers", 10**9, "n_layers is 1000000000, expected a whole number"),
        ("cfg.transformer.n_layers", "${oc.env:HOME}", "n_layers is .*, expected a whole number"),
        ("cfg.transformer.n_layers", True, "n_layers is True, expected a whole number"),
        ("cfg.transformer.n_layers", None, "no cfg.transformer.n_layers"),
        ("cfg.transformer.dropout", float("nan"), "dropout is nan, expected a number"),
        ("cfg.transformer.feedforward_factor", 5.0, r"fc2\.weight has shape"),
        ("cfg.transformer.n_state", 128, "cfg.hidden_size 64, cfg.transformer.n_state 128"),
        ("cfg.max_spatial_position", 47, "space_encoder.weight has shape"),
        ("cfg.max_neuron_count", 60_000, "max_neuron_count is 60000, expected at most 255"),
        ("cfg.max_return", 49, "return_enc.weight has shape"),
        ("data_attrs.behavior_dim", 3, "behavior_dim 3, root.dataset.behavior_dim 17"),
        ("cfg.transformer.activation", "gelu", r"activation is gelu \(ours: swiglu\)"),
        ("cfg.transformer.qk_normalization", False, r"qk_normalization is False \(ours: True\)"),
        ("cfg.task.tasks", ["spike_infill"], "lacks kinematic_linear"),
        ("cfg.task.tasks", ["spike_infill", "kinematic_linear", "constraints"], "has one of"),
        ("cfg.task.task_weights", [1.0], "no list of tasks with their weights"),
    ],
)
def test_settings_that_contradict_the_tensors_are_named(tmp_path, setting, value, said):
    write_lightning(tmp_path / "a.ckpt", edit_settings=lambda s: {**s, setting: value})
    with pytest.raises((CheckpointCorrupt, Unsupported), match=said):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_settings_will_do(tmp_path):
    """What a refused checkpoint is advised to become."""

    def plain(content):
        content["hyper_parameters"] = {
            "cfg": {
                **{"hidden_size": 64, "max_spatial_position": 48, "max_neuron_count": 21},
                **{"max_return": 50, "neurons_per_token": 32},
                "transformer": {"n_heads": 2, "n_layers": 2, "feedforward_factor": 1, "dropout": 0},
                "task": {"tasks": ["spike_infill", "kinematic_linear"], "task_weights": [1, 1]},
            },
            "data_attrs": {"max_channel_count": 64, "behavior_dim": 3}
            | {"bin_size_ms": 20, "max_trial_length": 100},
        }
        return content

    write_lightning(tmp_path / "a.ckpt", tuned=True, edit_content=plain)
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert load_model(tmp_path / "out").config.behavior_dim == 3


def test_moments_come_along_by_number(tmp_path):
    """The writer gives parameter number i moments of i and i / 2."""
    write_lightning(tmp_path / "a.ckpt")
    described, _ = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", with_optimizer=True)
    assert described["trained"]["optimizer"] == {
        "file": "optimizer.safetensors",
        "step": 7,
        "lr": 1e-4,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
    }
    moments = load_file(tmp_path / "out" / "optimizer.safetensors")
    order = upstream_order(SMALL)
    assert len(moments) == 2 * len(order)
    for name, weight in load_file(tmp_path / "out" / "model.safetensors").items():
        number = order.index(to_upstream(name))
        assert torch.equal(moments[f"exp_avg.{name}"], torch.full_like(weight, number)), name
        assert torch.equal(moments[f"exp_avg_sq.{name}"], torch.full_like(weight, number / 2))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda o: o.pop("state"), "no state of one AdamW"),
        (lambda o: o["param_groups"].append(o["param_groups"][0]), "no state of one AdamW"),
        (lambda o: o["param_groups"][0]["params"].pop(), "the optimiser has 31 parameters"),
        (lambda o: o["param_groups"][0]["params"].reverse(), "the optimiser has 32 parameters"),
        (lambda o: o["state"].pop(3), "no exp_avg of shape"),
        (lambda o: o["state"][3].update(exp_avg_sq=torch.zeros(2)), "no exp_avg_sq of shape"),
        (lambda o: o["state"][3].update(step=torch.tensor(8.0)), "different numbers of steps"),
        (lambda o: o["state"][3].update(step=torch.tensor(float("inf"))), "has inf in place"),
        (lambda o: o["param_groups"][0].update(lr="1"), "has 1 in place of a number"),
        (lambda o: o["state"][3].update(step=torch.full((9,), 7.0)[4]), "has a View in place of"),
    ],
)
def test_an_optimiser_that_does_not_fit_is_refused(tmp_path, edit, said):
    def broken(content):
        edit(content["optimizer_states"][0])
        return content

    write_lightning(tmp_path / "a.ckpt", edit_content=broken)
    with pytest.raises((CheckpointCorrupt, Unsupported), match=said):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", with_optimizer=True)
    assert not (tmp_path / "out").exists()
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    write_lightning(tmp_path / "a.ckpt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("notes")
    with pytest.raises(BadInput, match="exists and is not empty"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_, **__):
        assert list(tmp_path.glob(".out.*/model.safetensors"))
        raise OSError("no room")

    write_lightning(tmp_path / "a.ckpt")
    monkeypatch.setattr("ndt3_dist.upstream.from_ndt3.save_file", full)
    with pytest.raises(OSError, match="no room"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", with_optimizer=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_checkpoint_is_tuned_scored_and_sent_back(corpus, tmp_path):
    """Import, fine-tuning, evaluation and the way back, of one checkpoint."""
    overrides = ["train.steps=2", "train.batch=2", "train.eval_every=2", "data.fit=calibration"]
    overrides += [f"data.corpus={corpus}", f"run.dir={tmp_path}"]
    config = load_config(TuneConfig, PROJECT / "configs" / "stevenson.yaml", overrides)
    write_lightning(tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "a")
    tuned = finetune(config, str(tmp_path / "a"))["export"]
    result = evaluate({"before": str(tmp_path / "a"), "after": tuned}, corpus, history=3)
    assert all(np.isfinite(result["predictions"][k]).all() for k in ("before", "after"))
    assert read_export_config(tuned)["trained"]["init"]["imported"]["from"] == "joel99/ndt3"
    to_ndt3(tuned, tmp_path / "back.ckpt", tmp_path / "a.ckpt")
    import_checkpoint(tmp_path / "back.ckpt", tmp_path / "back")
    ours, back = load_model(tuned), load_model(tmp_path / "back")
    theirs = dict(back.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in ours.named_parameters())


def test_weights_in_half_precision_are_taken(tmp_path):
    def half(state):
        return OrderedDict((k, v.half() if torch.is_tensor(v) else v) for k, v in state.items())

    state = write_lightning(tmp_path / "a.ckpt", edit_state=half)
    import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    for name, parameter in load_model(tmp_path / "out").named_parameters():
        assert torch.equal(parameter, state[to_upstream(name)].float()), name


def test_tensors_of_one_storage_are_read_once_and_do_not_share_memory(tmp_path, monkeypatch):
    def flat(state):
        tensors = {k: v for k, v in state.items() if torch.is_tensor(v) and k != POISSON}
        whole = torch.cat([t.flatten() for t in tensors.values()])
        parts = whole.split([t.numel() for t in tensors.values()])
        views = {k: p.view(t.shape) for (k, t), p in zip(tensors.items(), parts, strict=True)}
        return OrderedDict((k, views.get(k, v)) for k, v in state.items())

    reads, real = [], LightningFile.elements
    monkeypatch.setattr(
        LightningFile, "elements", lambda self, held: reads.append(held) or real(self, held)
    )
    state = write_lightning(tmp_path / "a.ckpt", edit_state=flat)
    with LightningFile(tmp_path / "a.ckpt") as file:
        plan = make_plan(file, SMALL)
        weights = read_weights(file, SMALL, plan)
    assert len(reads) == 2  # the other is the constant table's
    for name, weight in weights.items():
        assert torch.equal(weight, state[to_upstream(name)])
        assert weight.untyped_storage().nbytes() == 4 * weight.numel()


@pytest.mark.parametrize("optimizer", [False, True])
def test_a_file_gives_no_more_than_it_has(tmp_path, optimizer):
    """Layers, or all moments, in the same bytes: an export of any size from a small file."""
    config = SMALL.model_copy(update={"layers": 6})

    def share(content):
        if optimizer:
            states, flat = content["optimizer_states"][0]["state"].values(), torch.zeros(10**5)
            for state in states:
                shape = state["exp_avg"].shape
                state["exp_avg"] = state["exp_avg_sq"] = flat[: shape.numel()].view(shape)
            return content
        state = content["state_dict"]
        for key in state:
            state[key] = state[re.sub(r"layers\.\d", "layers.0", key)]
        return content

    write_lightning(tmp_path / "a.ckpt", config, edit_content=share)
    with pytest.raises(CheckpointCorrupt, match="elements of tensors share the same"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", with_optimizer=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    def edit(state):
        state[Q_NORM][3] = value
        return state

    write_lightning(tmp_path / "a.ckpt", edit_state=edit)
    with pytest.raises(CheckpointCorrupt, match=r"q_norm\.weight has values that are not finite"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    write_lightning(tmp_path / "b.ckpt")
    import_checkpoint(tmp_path / "b.ckpt", tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(str(file))
    weights["spike_out.bias"][5] = value
    save_file(weights, str(file))
    with pytest.raises(CheckpointCorrupt, match=r"safetensors: spike_out\.bias has values"):
        load_model(tmp_path / "out")


def test_an_import_may_go_to_the_folder_that_it_is_called_in(tmp_path, monkeypatch):
    write_lightning(tmp_path / "a.ckpt")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    import_checkpoint(tmp_path / "a.ckpt", ".")
    load_model(tmp_path / "here")

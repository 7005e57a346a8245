"""A checkpoint that NDT3's original code wrote, there and back; and the micro run's weights."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_file import write_lightning
from safetensors.torch import load_file

from ndt3_dist.model.load import load_model
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.upstream.from_ndt3 import import_checkpoint
from ndt3_dist.upstream.lightning import LightningFile
from ndt3_dist.upstream.names import to_upstream
from ndt3_dist.upstream.to_ndt3 import to_ndt3

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
TINY = GOLDEN / "tiny_lightning.ckpt"
pytestmark = pytest.mark.skipif(
    not TINY.is_file(), reason="a checkpoint of the original code is not beside the checkout"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The checkpoint's export, with its optimiser."""
    out = tmp_path_factory.mktemp("tiny") / "export"
    described, rows = import_checkpoint(TINY, out, with_optimizer=True)
    return out, described, rows


class Standing(dict):
    """In place of any class that the file names."""

    def __init__(self, *args):
        super().__init__()

    def __setstate__(self, state):
        pass

    def __hash__(self):
        return id(self)


class Unpickler(pickle.Unpickler):
    """Torch's own loader needs one; this one knows torch and the standard library alone."""

    def find_class(self, module, name):
        theirs = module.split(".")[0] in ("context_general_bci", "omegaconf")
        return Standing if theirs else super().find_class(module, name)


def torch_load(path):
    """A file as torch's own loader reads it, storages checked by its zip reader."""
    standing = SimpleNamespace(__name__="standing", Unpickler=Unpickler, load=pickle.load)
    # Stand-ins for every class that it names: torch's own reading, to compare ours with.
    return torch.load(path, pickle_module=standing, weights_only=False)


def test_every_tensor_of_the_original_arrives(tiny):
    out, described, rows = tiny
    theirs = torch_load(TINY)
    model = load_model(out)
    assert model.config == ModelConfig(
        layers=2, dim=256, heads=2, feedforward=256, dropout=0, attention_dropout=0
    )
    names = {to_upstream(name): p for name, p in model.named_parameters()}
    for key, value in theirs["state_dict"].items():
        if key in names:
            assert torch.equal(names.pop(key), value), key
        elif torch.is_tensor(value):
            torch.testing.assert_close(model.poisson, value, atol=1e-6, rtol=0)
    assert not names
    assert {r["outcome"] for r in rows if r["parameter"] != "-"} == {"loaded"}
    assert described["trained"]["step"] == theirs["global_step"] == 8
    assert described["trained"]["epochs"] == theirs["epoch"] == 4


def test_moments_belong_to_their_parameters(tiny):
    """Covariate inputs are always blanked, so theirs alone are exactly zero."""
    out, described, _ = tiny
    theirs = torch_load(TINY)
    moments = load_file(out / "optimizer.safetensors")
    zero = {name for name, moment in moments.items() if not moment.any()}
    kinds = ("exp_avg", "exp_avg_sq")
    assert zero == {f"{k}.covariate_in.{p}" for k in kinds for p in ("weight", "bias")}
    assert described["trained"]["optimizer"]["step"] == 8
    keys = [k for k, v in theirs["state_dict"].items() if torch.is_tensor(v) and "poisson" not in k]
    for number, key in enumerate(keys):
        name = next(n for n, _ in load_model(out).named_parameters() if to_upstream(n) == key)
        for kind in kinds:
            theirs_ = theirs["optimizer_states"][0]["state"][number][kind]
            assert torch.equal(moments[f"{kind}.{name}"], theirs_), key


def test_there_and_back_is_bit_identical(tiny, tmp_path):
    out, _, _ = tiny
    to_ndt3(out, tmp_path / "back.ckpt", TINY)
    import_checkpoint(tmp_path / "back.ckpt", tmp_path / "again")
    file = "model.safetensors"
    assert (tmp_path / "again" / file).read_bytes() == (out / file).read_bytes()
    before, after = torch_load(TINY), torch_load(tmp_path / "back.ckpt")
    for key, value in before["state_dict"].items():
        found = after["state_dict"][key]
        assert torch.equal(found, value) if torch.is_tensor(value) else found == value, key
    with LightningFile(TINY) as a, LightningFile(tmp_path / "back.ckpt") as b:
        assert a.read("data.pkl") == b.read("data.pkl")


def test_other_weights_go_into_the_originals_file(tiny, tmp_path):
    """As after a fine-tuning: what comes back is ours, bit for bit, and not the template's."""
    from safetensors.torch import save_file

    out, _, _ = tiny
    torch.manual_seed(3)
    ours = {n: p.detach() for n, p in NDT3(load_model(out).config).named_parameters()}
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "normalisation.json"):
        (other / name).write_bytes((out / name).read_bytes())
    save_file(ours, other / "model.safetensors")
    to_ndt3(other, tmp_path / "back.ckpt", TINY)
    found = torch_load(tmp_path / "back.ckpt")["state_dict"]
    assert all(torch.equal(found[to_upstream(name)], p) for name, p in ours.items())


@pytest.mark.skipif(not (GOLDEN / "micro").is_dir(), reason="the micro run is not there")
def test_the_micro_runs_weights_arrive_through_a_checkpoint(tmp_path):
    """With them our model gives the original's outputs and losses (test_micro)."""
    micro = load_file(GOLDEN / "micro" / "weights.safetensors")
    expected = json.loads((GOLDEN / "micro" / "expected.json").read_text())
    config = ModelConfig(
        layers=2, dim=128, heads=4, feedforward=256, dropout=0, attention_dropout=0
    )
    write_lightning(
        tmp_path / "a.ckpt",
        config,
        edit_state=lambda state: type(state)((k, micro.get(k, v)) for k, v in state.items()),
    )
    described, _ = import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert described["parameters"] == expected["n_params"]
    model = load_model(tmp_path / "out")
    assert model.config == config
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, micro[to_upstream(name)]), name

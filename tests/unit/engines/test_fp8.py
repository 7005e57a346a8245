"""Products in 8 bits, as a CPU imitates them: near those in bf16; refused where there are none."""

import copy

import pytest
import torch

from ndt3_dist.engines.fp8 import use_fp8
from ndt3_dist.errors import BadInput, Unsupported
from ndt3_dist.model.example import windows
from ndt3_dist.model.ndt3 import NDT3

pytest.importorskip("torchao", reason="torchao is not installed")
CPU = torch.device("cpu")


def trained(model, arrays):
    """Loss and gradients by name."""
    loss = model(model.batch(arrays, CPU), 1000, 10).loss
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_blocks_multiply_in_8_bits_and_nothing_else_changes(tiny_model, recipe):
    torch.manual_seed(0)
    config = tiny_model.model_copy(update={"dropout": 0.0})
    exact = NDT3(config).to(torch.bfloat16)
    rounded = copy.deepcopy(exact)
    use_fp8(rounded, recipe, CPU)
    assert [*rounded.state_dict()] == [*exact.state_dict()]
    arrays = windows(config, 3, 7)  # 177 tokens: no multiple of 16
    (loss, grads), (ours, of_ours) = trained(exact, arrays), trained(rounded, arrays)
    assert ours != loss
    assert float(abs(ours / loss - 1)) < 0.01
    assert of_ours.keys() == grads.keys()
    for name, grad in grads.items():
        if name.startswith("blocks") and "norm" not in name and "bias" not in name:
            error = (of_ours[name] - grad).float().norm() / grad.float().norm()
            assert 0.01 < float(error) < 0.2, name  # 3 bits behind the point; both layers


def test_what_cannot_multiply_in_8_bits_is_refused(tiny_model, monkeypatch):
    model = NDT3(tiny_model)
    with pytest.raises(BadInput, match="Linear has no blocks"):
        use_fp8(torch.nn.Linear(2, 2), "rowwise", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(Unsupported, match=r"8\.9 \(Ada, Hopper\) or newer; NVIDIA A100 is older"):
        use_fp8(model, "rowwise", torch.device("cuda"))

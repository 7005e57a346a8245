"""Products of bf16 matrices on CPUs with and without instructions for them."""

import pytest
import torch

from ndt3_dist.model import linear
from ndt3_dist.model.linear import Linear, product_dtype


@pytest.mark.parametrize("native", [True, False])
def test_bf16_layers_agree_with_float32_ones_to_rounding(monkeypatch, native):
    monkeypatch.setattr(linear, "CPU_HAS_BF16", native)
    torch.manual_seed(0)
    layer, x = Linear(64, 48).bfloat16(), torch.randn(10, 64, dtype=torch.bfloat16)
    x.requires_grad_()
    exact = torch.nn.Linear(64, 48)
    exact.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    y = x.detach().float().requires_grad_()
    seed = torch.randn(10, 48)
    ours, theirs = layer(x), exact(y)
    ours.backward(seed.bfloat16())
    theirs.backward(seed)
    assert (ours.dtype, x.grad.dtype, layer.weight.grad.dtype) == (torch.bfloat16,) * 3
    for a, b in ((ours, theirs), (x.grad, y.grad), (layer.weight.grad, exact.weight.grad)):
        torch.testing.assert_close(a.float(), b, rtol=0.02, atol=0.02)


def test_only_bf16_on_a_cpu_without_it_is_multiplied_in_float32(monkeypatch):
    x = torch.zeros(2)
    for native in (True, False):
        monkeypatch.setattr(linear, "CPU_HAS_BF16", native)
        assert product_dtype(x) == torch.float32
        assert product_dtype(x.double()) == torch.float64
        assert product_dtype(x.bfloat16()) == (torch.bfloat16 if native else torch.float32)
        assert product_dtype(x.bfloat16().to("meta")) == torch.bfloat16

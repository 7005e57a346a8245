"""The operations of a training step without a GPU: traced on torch's meta device.

Tensors there have shapes and no memory, so that real sizes fit. What would let a GPU's host wait (a
value that is read, the indices of a mask, a copy to the host) has no result on it and fails.
(Fake CUDA tensors need a torch that is built for CUDA as soon as one is indexed.)
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ndt3_dist.model import fused, ndt3
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3

WAITS = {
    *("aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.masked_select"),
    *("aten.is_nonzero", "aten.equal", "aten.unique_dim", "aten._unique2"),
}
"""Operators for whose result the host waits."""


@dataclass(frozen=True)
class Call:
    """One operator or kernel.

    Attributes:
        name: aten.mm, add_norm_forward, ...
        inputs, outputs: Tensors; a kernel's are all inputs.
        is_free: Whether it launches nothing: a view, or memory that is not filled.
    """

    name: str
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    is_free: bool = False

    @property
    def shapes(self) -> tuple:
        """What a captured graph is made for."""
        return self.name, *(tuple(t.shape) for t in (*self.inputs, *self.outputs))


@dataclass
class Trace:
    calls: list[Call] = field(default_factory=list)

    def waits(self) -> list[str]:
        """Operators that let the host wait, or whose result leaves the device."""
        return [c.name for c in self.calls if c.name in WAITS or leaves(c)]

    def shapes(self) -> list[tuple]:
        return [call.shapes for call in self.calls]


def leaves(call: Call) -> bool:
    """Whether it copies from the device to the host."""
    places = [{t.device.type for t in some} for some in (call.inputs, call.outputs)]
    return "meta" in places[0] and "cpu" in places[1]


def tensors_in(found) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, (list, tuple)):
        return [t for one in found for t in tensors_in(one)]
    return []


def launches_nothing(func) -> bool:
    """Whether an operator gives views, or memory that it does not fill."""
    aliases = [r.alias_info for r in func._schema.returns]
    views = any(a is not None and not a.is_write for a in aliases)
    name = func.name().split("::")[1]
    return views or name.startswith(("empty", "new_empty", "detach", "_unsafe_view"))


class Watch(TorchDispatchMode):
    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = f"{func.namespace}.{func.name().split('::')[1].split('.')[0]}"
        inputs = tensors_in([*args, *(kwargs or {}).values()])
        self.trace.calls.append(Call(name, inputs, tensors_in(out), launches_nothing(func)))
        return out


@contextlib.contextmanager
def as_on_a_gpu(kernels: bool, trace: Trace | None = None) -> Iterator[None]:
    """Models run as they do on a GPU in bf16, with flash kernels; no kernel of ours is launched.

    Args:
        kernels: With our fused kernels, or with the plain operations that torch.compile takes.
        trace: Where launches are noted, with all their tensors as inputs.
    """

    def launch(name: str, grid, elements: int, *arguments) -> None:
        if trace is not None:
            trace.calls.append(Call(name, tensors_in(arguments), []))

    with (
        patch.object(fused, "runs_on", lambda device, dtype: kernels),
        patch.object(fused, "launch", launch),
        patch.object(ndt3, "choose_body", lambda *_: "varlen"),
    ):
        yield


@contextlib.contextmanager
def traced(kernels: bool) -> Iterator[Trace]:
    """All that is called inside, as on a GPU."""
    trace = Trace()
    with as_on_a_gpu(kernels, trace), Watch(trace):
        yield trace


def meta_model(config: ModelConfig) -> NDT3:
    """A model in bf16 without memory."""
    with torch.device("meta"):
        model = NDT3(config)
    return model.to(torch.bfloat16)

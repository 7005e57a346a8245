"""What a micro-batch holds, from its operations.

The very model, with fewer blocks, is run forward and backward on tensors that have shapes and no
memory, and the bytes that are alive are counted.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ndt3_dist.model.attention import LOOPS
from ndt3_dist.model.example import windows
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens


@dataclass(frozen=True)
class Pieces:
    """Bytes of a micro-batch at its peak.

    Attributes:
        activations, logits: That the backward pass needs: of blocks, of heads and losses.
        passing: More, for a moment.
        tokens: Of the micro-batch.
    """

    activations: float
    logits: float
    passing: float
    tokens: float

    def towards(self, other: "Pieces", far: float) -> "Pieces":
        """On the line from here (0) to another (1)."""
        both = zip(astuple(self), astuple(other), strict=True)
        return Pieces(*(a + far * (b - a) for a, b in both))


@dataclass(frozen=True)
class MicroBatch:
    """Two sizes of a micro-batch; others lie on their line."""

    few: Pieces
    many: Pieces

    def of(self, tokens: int) -> Pieces:
        far = (tokens - self.few.tokens) / (self.many.tokens - self.few.tokens)
        found = self.few.towards(self.many, far)
        return Pieces(*(max(0.0, n) for n in astuple(found)))


def micro_batch(config: ModelConfig, recompute: bool, precision: str, gpu: bool) -> MicroBatch:
    """What a micro-batch holds, by its tokens."""
    key: Any = config
    return _micro_batch(key, recompute, precision, gpu)


@functools.lru_cache
def _micro_batch(config: ModelConfig, recompute: bool, precision: str, gpu: bool) -> MicroBatch:
    return MicroBatch(*(all_layers(config, recompute, precision, n, gpu) for n in (2, 6)))


def all_layers(config: ModelConfig, recompute: bool, precision: str, count: int, gpu: bool):
    """`traced` of a model, from models with two and three of its blocks: all are alike."""
    if config.layers <= 3:
        return traced(config, recompute, precision, count, gpu)
    two, three = (
        traced(config.model_copy(update={"layers": n}), recompute, precision, count, gpu)
        for n in (2, 3)
    )
    return two.towards(three, config.layers - 2)


def traced(config: ModelConfig, recompute: bool, precision: str, count: int, gpu: bool) -> Pieces:
    """A micro-batch of so many example windows, beside weights and sums of gradients."""
    if gpu and config.attention not in LOOPS:
        config = config.model_copy(update={"attention": "auto"})
    device, kept = torch.device("meta" if gpu else "cpu"), []
    arrays = windows(config, count)
    with contextlib.nullcontext() if gpu else FakeTensorMode(), device:
        model = NDT3(config)
        model.recompute = recompute
        for parameter in model.parameters():
            if precision == "bf16":
                parameter.data = parameter.data.bfloat16()
            parameter.register_post_accumulate_grad_hook(drop_gradient)
        with Alive() as found:
            model.features = noted(model.features, found, kept)
            loss = model(PackedTokens.from_numpy(arrays, device), 1, 1).loss
            kept.append(found.now)
            loss.backward()
    blocks, all_kept = kept
    return Pieces(blocks, all_kept - blocks, found.peak - all_kept, len(arrays["time"]))


def noted(call: Callable, found: "Alive", kept: list[int]) -> Callable:
    """A function that also notes what is alive when it has ended."""

    def call_and_note(*args):
        out = call(*args)
        kept.append(found.now)
        return out

    return call_and_note


def drop_gradient(parameter: torch.Tensor) -> None:
    """What an engine does with it, once it is added to those before."""
    parameter.grad = None


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operators make, as long as somebody has them.

    Attributes:
        now, peak: Bytes.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):  # made outside, as weights are: not counted
                self.see(tensor.untyped_storage(), False)
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor.untyped_storage(), True)
        return out

    def see(self, storage: torch.UntypedStorage, counts: bool) -> None:
        key, size = storage._cdata, storage.nbytes() if counts else 0
        if key not in self.known:
            self.known.add(key)
            weakref.finalize(storage, self.gone, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

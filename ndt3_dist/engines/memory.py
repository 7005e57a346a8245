"""What a training step holds in a rank's memory, reckoned before there is one.

States by a formula, a micro-batch from its operations: the very model is run forward and backward
on tensors that have shapes and no memory, and the bytes that are alive are counted.
"""

import contextlib
import weakref
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ndt3_dist.engines.engine_config import TrainConfig
from ndt3_dist.errors import BadInput
from ndt3_dist.model.attention import LOOPS
from ndt3_dist.model.example import windows
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens

CONTEXT = 1 << 30
"""Bytes that a process on a GPU holds beside its tensors, for CUDA, NCCL and cuBLAS: a guess."""
USABLE = 0.92
"""Share of a card that is planned with: the allocator leaves gaps."""
MOST_TOKENS = 32768
"""Of a micro-batch: an H200 gained nothing by more (46.0 % of its peak; 44.7 % at half more)."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank holds at a step's peak.

    Attributes:
        weights: That the model computes with.
        masters: fp32 weights that AdamW steps.
        moments: AdamW's.
        gradients: fp32, that micro-batches add up in.
        micro_batch: What its forward and backward pass hold at their peak.
        context: Of the device's libraries.
    """

    weights: int
    masters: int
    moments: int
    gradients: int
    micro_batch: int
    context: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def memory_of(model: ModelConfig, train: TrainConfig, tokens: int, ranks: int, gpu: bool) -> Memory:
    """What a rank holds at micro-batches of so many tokens.

    Args:
        gpu: In bf16 with flash kernels and fused ones; else as on a CPU.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in NDT3(model).parameters())
    return Memory(
        **states(parameters, train, ranks),
        micro_batch=micro_batch_bytes(model, train, tokens, gpu),
        context=CONTEXT if gpu else 0,
    )


def states(parameters: int, train: TrainConfig, ranks: int) -> dict[str, int]:
    """Bytes of a rank's weights, masters, moments and gradients, by ZeRO stage.

    Source: S. Rajbhandari et al. 2020, ZeRO (their psi), with gradients in fp32 as `engine` has
    them.
    """
    stage, part = train.zero_stage, -(-parameters // ranks)
    own = part if stage else parameters
    kept = {
        "weights": (2 if train.precision == "bf16" else 4) * (part if stage == 3 else parameters),
        "masters": 4 * own if stage else 0,
        "moments": 8 * own,
        "gradients": 4 * (part if stage >= 2 else parameters),
    }
    if train.offload:
        kept |= {"masters": 0, "moments": 0}
    return kept


def micro_batch_bytes(model: ModelConfig, train: TrainConfig, tokens: int, gpu: bool) -> int:
    """Bytes alive at the peak of the forward and backward pass of one micro-batch."""
    found = {n: traced(model, train, n, gpu) for n in (2, 6)}
    (few, at_few), (many, at_many) = found.values()
    return int(few + (many - few) / (at_many - at_few) * (tokens - at_few))


def traced(config: ModelConfig, train: TrainConfig, count: int, gpu: bool) -> tuple[int, int]:
    """Peak of a micro-batch of so many example windows beside weights and sums of gradients, and
    its tokens."""
    if gpu and config.attention not in LOOPS:
        config = config.model_copy(update={"attention": "auto"})
    device = torch.device("meta" if gpu else "cpu")
    arrays = windows(config, count)
    with contextlib.nullcontext() if gpu else FakeTensorMode(), device:
        model = NDT3(config)
        model.recompute = train.recompute
        for parameter in model.parameters():
            if train.precision == "bf16":
                parameter.data = parameter.data.bfloat16()
            parameter.register_post_accumulate_grad_hook(drop_gradient)
        with Alive() as found:
            model(PackedTokens.from_numpy(arrays, device), 1, 1).loss.backward()
    return found.peak, len(arrays["time"])


def largest_micro_batch(
    model: ModelConfig, train: TrainConfig, row_tokens: int, ranks: int, card: int
) -> int:
    """Rows of the largest micro-batch on a GPU that fits, shares out and is of use.

    Args:
        card: Bytes of the smallest GPU.
    Raises:
        BadInput: Not even one row fits.
    """
    rows = [
        n
        for n in range(1, max(MOST_TOKENS // row_tokens, 1) + 1)
        if train.global_batch % (n * ranks) == 0
    ]
    for number in reversed(rows or [1]):
        needed = memory_of(model, train, number * row_tokens, ranks, gpu=True)
        if needed.total <= USABLE * card:
            return number
    raise BadInput(too_large(needed, train, row_tokens, card))


def check_fits(model: ModelConfig, train: TrainConfig, row_tokens: int, ranks: int, card: int):
    """Refuse a micro-batch that a GPU has no memory for.

    Raises:
        BadInput: With what takes how much, and what would help.
    """
    rows = train.micro_batch
    needed = memory_of(model, train, rows * row_tokens, ranks, gpu=True)
    if needed.total > card:
        raise BadInput(too_large(needed, train, row_tokens, card))


def too_large(needed: Memory, train: TrainConfig, row_tokens: int, card: int) -> str:
    """What is said where a step does not fit a GPU."""
    parts = ", ".join(f"{k.replace('_', ' ')} {v / 1e9:.1f}" for k, v in vars(needed).items() if v)
    rows = train.micro_batch or 1
    ways = ["train.recompute=true"] * (not train.recompute)
    ways += [f"train.micro_batch below {rows}"] * (rows > 1)
    ways += ["train.zero_stage=3"] * (train.zero_stage < 3) + ["train.offload=true"]
    return (
        f"a step takes {needed.total / 1e9:.1f} GB of a GPU with {card / 1e9:.1f} ({parts}), at "
        f"micro-batches of {rows * row_tokens:,} tokens; use {', '.join(ways[:-1])} or {ways[-1]}, "
        "or more ranks"
    )


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

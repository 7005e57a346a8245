"""What a training step holds in a rank's memory, reckoned before there is one.

States and what the engine does with gradients by formulas, a micro-batch from its operations
(`micro_memory`).
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch

from ndt3_dist.engines.engine_config import TrainConfig
from ndt3_dist.engines.micro_memory import micro_batch
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3

CONTEXT = 1 << 30
"""Bytes that a process on a GPU holds beside its tensors, for CUDA, NCCL and cuBLAS: a guess."""
USABLE = 0.92
"""Share of a card that is planned with: the allocator leaves gaps."""
MOST_TOKENS = 32768
"""Of a micro-batch: an H200 gained nothing by more (46.0 % of its peak; 44.7 % at half more)."""
BUCKET = 500_000_000
"""Numbers that DeepSpeed reduces at once: it takes their memory, whatever the model's size."""
GATHERED = 1_000_000_000
"""Weights that its ZeRO-3 holds whole at most."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank holds at a step's peak.

    Attributes:
        weights: That the model computes with.
        masters: fp32 weights that AdamW steps.
        moments: AdamW's.
        gradients: fp32, that micro-batches add up in.
        activations: That blocks keep for the backward pass.
        logits: What the heads and losses keep.
        workspace: What else is there when most is: in the backward pass, or while gradients are
            reduced, or while AdamW steps.
        context: Of the device's libraries.
    """

    weights: int
    masters: int
    moments: int
    gradients: int
    activations: int
    logits: int
    workspace: int
    context: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def memory_of(model: ModelConfig, train: TrainConfig, tokens: int, ranks: int, gpu: bool) -> Memory:
    """What a rank holds at micro-batches of so many tokens.

    Args:
        gpu: In bf16 with flash kernels and fused ones; else as on a CPU.
    """
    parameters = count_parameters(model)
    pieces = micro_batch(model, train.recompute, train.precision, gpu).of(tokens)
    logits, kept = round(pieces.logits), round(pieces.activations + pieces.logits)
    peak = max(at_once(parameters, train, ranks, gpu, kept + round(pieces.passing)))
    return Memory(
        **states(parameters, train, ranks),
        activations=kept - logits,
        logits=logits,
        workspace=peak - kept,
        context=CONTEXT if gpu else 0,
    )


def count_parameters(model: ModelConfig) -> int:
    """Of the built model, without building it."""
    key: Any = model  # frozen, so hashable, which is not seen by a type checker
    return _count_parameters(key)


@functools.lru_cache
def _count_parameters(model: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in NDT3(model).parameters())


def at_once(
    parameters: int, train: TrainConfig, ranks: int, gpu: bool, micro: int
) -> tuple[int, int, int]:
    """Bytes beside a rank's states in a backward pass, while gradients are reduced, in AdamW.

    Args:
        micro: Most that a micro-batch holds.
    Source: counted in DeepSpeed 0.19.8 at 1, 2 and 4 ranks (benchmarks/plan_memory.py), but for
    models beyond BUCKET parameters and for `train.offload`: those by its code.
    """
    stage, in_bf16 = train.zero_stage, train.precision == "bf16"
    own, size = -(-parameters // ranks), 2 if in_bf16 else 4
    reduced = min(parameters, BUCKET)
    # Its own gradients laid flat; on a CPU square roots besides.
    step = 0 if train.offload else (4 if gpu else 8) * own
    if stage == 0:
        return micro, 4 * reduced, 0
    if stage == 1 and in_bf16:  # gradients as the backward pass made them stay for a while
        return micro + size * parameters, 0, size * parameters + step
    if stage == 3:
        gathered, bucket = size * min(parameters, GATHERED), 4 * BUCKET + (not in_bf16) * 4 * own
        most = gathered + (8 - size) * reduced
        return micro + gathered + bucket, most + bucket, 4 * own + step + bucket
    bucket = size * BUCKET * (2 if train.overlap else 1)
    return micro + bucket, (6 if in_bf16 else 4) * reduced + bucket, step


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
    found = micro_batch(model, train.recompute, train.precision, gpu).of(tokens)
    return round(found.activations + found.logits + found.passing)


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

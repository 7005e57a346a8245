"""The fp32 masters that the ranks of a DeepSpeed run saved, put together again.

ZeRO-1 and -2 lay the parameters of a group end to end in a flat tensor and cut that in one part a
rank. ZeRO-3 cuts each parameter, and those that are not trained likewise. Nothing is read before it
is asked for; parts that do not have the elements that the shapes need are refused.

Source: deepspeed.utils.zero_to_fp32 of DeepSpeed 0.19.8, for where things lie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import torch

from ndt3_dist.errors import CheckpointCorrupt
from ndt3_dist.upstream.lightning import LightningFile, View
from ndt3_dist.upstream.pickles import brief

END_TO_END, CUT_EACH = "single_partition_of_fp32_groups", "fp32_flat_groups"
"""Where a rank keeps its part of the masters: of ZeRO-1 and -2, of ZeRO-3."""
FROZEN = "frozen_param_fragments"

Rank = tuple[LightningFile, dict]
"""A rank's file, and the dictionary of it that has its parts."""
Shapes = dict[str, tuple[int, ...]]


@dataclass
class Merged:
    """Parameters whose elements follow each other once all ranks' parts are put together.

    Attributes:
        elements: Of all, paddings included.
        merge: Reads them: (elements,).
        shapes: Of each parameter.
        starts: First element of each.
    """

    elements: int
    merge: Callable[[], torch.Tensor]
    shapes: Shapes
    starts: dict[str, int]


def end_to_end(groups: list[Shapes], ranks: list[Rank]) -> list[Merged]:
    """Parameters of ZeRO-1 and -2, group by group."""
    found = []
    first, state = ranks[0]
    paddings = state.get("param_alignment_paddings") or [[0] * len(shapes) for shapes in groups]
    for number, shapes in enumerate(groups):
        parts = [part(*rank, END_TO_END, number, len(groups)) for rank in ranks]
        behind = paddings[number] if is_list(paddings, len(groups)) else None
        if not is_list(behind, len(shapes)) or any(type(n) is not int or n < 0 for n in behind):
            raise first.corrupt(f"paddings of group {number} do not fit its parameters")
        starts, end, last = {}, 0, 0
        for (name, shape), padding in zip(shapes.items(), behind, strict=True):
            starts[name], last = end, end + prod(shape)
            end = last + padding
        there, step = sum(view.shape[0] for _, view in parts), 2 * len(ranks)
        if last > there or -(-end // step) != -(-there // step):  # as ZeRO pads a group
            raise wrong(first, f"group {number}", end, there)
        found.append(Merged(there, lambda parts=parts: joined(parts), shapes, starts))
    return found


def cut_each(groups: list[Shapes], ranks: list[Rank]) -> Merged:
    """Parameters of ZeRO-3: each rank has an equal part of each, the last one padded."""
    shapes = {name: shape for group in groups for name, shape in group.items()}
    lengths = [-(-prod(shape) // len(ranks)) for shape in shapes.values()]
    parts = []
    for file, state in ranks:
        many = len(state[CUT_EACH]) if type(state[CUT_EACH]) is list else 0
        parts.append([part(file, state, CUT_EACH, n, many) for n in range(many)])
        there = sum(view.shape[0] for _, view in parts[-1])
        if there != sum(lengths):
            raise wrong(file, "its rank", sum(lengths), there)

    def merge() -> torch.Tensor:
        rows = torch.stack([joined(own) for own in parts])  # (ranks, elements of a rank)
        return torch.cat([piece.reshape(-1) for piece in rows.split(lengths, 1)])

    starts, end = {}, 0
    for name, length in zip(shapes, lengths, strict=True):
        starts[name] = end
        end += length * len(ranks)
    return Merged(end, merge, shapes, starts)


def frozen(shapes: Shapes, ranks: list[Rank]) -> list[Merged]:
    """Parameters of ZeRO-3 that were not trained, in the precision that they were used in."""
    found = []
    for name, shape in shapes.items():
        parts = []
        for file, content in ranks:
            view = content[FROZEN].get(name) if type(content.get(FROZEN)) is dict else None
            if not is_flat(view):
                raise file.corrupt(f"{FROZEN} has no flat tensor {brief(name)}")
            parts.append((file, view))
        there = sum(view.shape[0] for _, view in parts)
        if there < prod(shape):
            raise wrong(ranks[0][0], brief(name), prod(shape), there)
        found.append(Merged(there, lambda p=parts: joined(p), {name: shape}, {name: 0}))
    return found


def part(file: LightningFile, state: dict, key: str, number: int, many: int):
    """A rank's part of a group: its file, and a flat float32 tensor of it."""
    view = state[key][number] if is_list(state[key], many) else None
    if not is_flat(view) or view.storage.dtype != torch.float32:
        raise file.corrupt(f"{key} has no flat float32 tensor {number} of {many}")
    return file, view


def joined(parts: list[tuple[LightningFile, View]]) -> torch.Tensor:
    """Flat tensors of files, one after the other, float32."""
    return torch.cat([file.tensor(view).float() for file, view in parts])


def wrong(file: LightningFile, what: str, needed: int, there: int) -> CheckpointCorrupt:
    return file.corrupt(f"{what} needs {needed:,} elements, the optim_states.pt have {there:,}")


def is_list(value: Any, length: int) -> TypeGuard[list]:
    return type(value) is list and len(value) == length


def is_flat(value: Any) -> TypeGuard[View]:
    """Whether it is a tensor of one dimension whose elements follow each other."""
    return isinstance(value, View) and value.stride == (1,)


def is_shapes(value: Any) -> bool:
    """Whether it is a dictionary of shapes by name."""
    return type(value) is dict and all(
        type(name) is str
        and type(shape) is tuple
        and all(type(n) is int and 0 <= n < 2**31 for n in shape)
        for name, shape in value.items()
    )

"""What ranks tell each other."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ndt3_dist.data.ledger import Damage
from ndt3_dist.errors import Ndt3DistError


def gather(value: Any) -> list[Any]:
    """One object of every rank, in order of rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def num_hosts() -> int:
    """Hosts that the ranks are on; all ranks call it."""
    # The launcher's number tells hosts of one name apart.
    return len({*gather((socket.gethostname(), os.environ.get("CROSS_RANK")))})


def broadcast(call: Callable[[], Any]) -> Any:
    """What a call of rank 0 returns, on all ranks; its error, on all ranks."""
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = call()
        except (Ndt3DistError, OSError) as e:
            box[1] = e
    dist.broadcast_object_list(box)
    if box[1]:
        raise box[1]
    return box[0]


@dataclass
class Agreement:
    """What all ranks know before a step.

    Attributes:
        totals: Of the whole step: sums of every rank's.
        damage: All that any rank found damaged, in one order; mostly nothing.
        stop: Why ranks were asked to stop, a reason each; empty where none was.
        writing: How many still write a checkpoint.
        seconds: Of each rank and phase, (ranks, phases); None where they were not told.
    """

    totals: np.ndarray
    damage: list[Damage]
    stop: list[str]
    writing: int
    seconds: np.ndarray | None


def agree_on_step(
    totals: np.ndarray,
    found: list[Damage],
    asked: str,
    writing: bool,
    device: torch.device,
    seconds: np.ndarray | None = None,
) -> Agreement:
    """In one all-reduce: this rank's totals, damage, wish to stop, pending save and times.

    All ranks call it at the same times; what was found and asked is gathered only where any has.

    Args:
        seconds: Of this rank's phases, (phases,); all ranks tell theirs at the same times.
    """
    flags = len(found), bool(asked), writing
    of_phases = np.zeros((dist.get_world_size(), 0 if seconds is None else len(seconds)), np.int64)
    if seconds is not None:
        of_phases[dist.get_rank()] = 1e6 * seconds
    own = [*totals.tolist(), *flags, *of_phases.ravel().tolist()]
    total = torch.tensor(own, device=device)
    dist.all_reduce(total)
    *of_step, damaged, asking, pending = total[: len(totals) + len(flags)].tolist()
    if seconds is not None:
        told = total[len(totals) + len(flags) :].cpu().numpy()
        seconds = told.reshape(of_phases.shape) / 1e6
    reasons, whole = [], []
    if asking:
        reasons = [f"rank {rank}: {why}" for rank, why in enumerate(gather(asked)) if why]
    if damaged:
        whole = sorted({d for of_rank in gather(found) for d in of_rank})
    return Agreement(np.array(of_step), whole, reasons, pending, seconds)

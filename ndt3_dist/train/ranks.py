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
    """

    totals: np.ndarray
    damage: list[Damage]
    stop: list[str]
    writing: int


def agree_on_step(
    totals: np.ndarray, found: list[Damage], asked: str, writing: bool, device: torch.device
) -> Agreement:
    """Four things in one all-reduce: this rank's totals, damage, wish to stop and pending save.

    All ranks call it at the same times; what was found and asked is gathered only where any has.
    """
    flags = len(found), bool(asked), writing
    total = torch.tensor([*totals.tolist(), *flags], device=device)
    dist.all_reduce(total)
    *of_step, damaged, asking, pending = total.tolist()
    reasons, whole = [], []
    if asking:
        reasons = [f"rank {rank}: {why}" for rank, why in enumerate(gather(asked)) if why]
    if damaged:
        whole = sorted({d for of_rank in gather(found) for d in of_rank})
    return Agreement(np.array(of_step), whole, reasons, pending)

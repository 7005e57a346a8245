"""What ranks tell each other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ndt3_dist import log
from ndt3_dist.checkpoint.writer import Writer
from ndt3_dist.data.ledger import Damage
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.train.stop import StopWatch


def gather(value: Any) -> list[Any]:
    """One object of every rank, in order of rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def first_for_all(call: Callable[[], Any]) -> Any:
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


def share(
    counts: np.ndarray,
    found: list[Damage],
    device: torch.device,
    stop: StopWatch,
    writer: Writer,
):
    """Counts of all ranks, and what any of them found damaged, in one order: mostly nothing.

    On the way they tell each other whether one was asked to stop, or still writes a checkpoint.
    """
    flags = len(found), bool(stop.asked), writer.pending
    total = torch.tensor([*counts.tolist(), *flags], device=device)
    dist.all_reduce(total)
    *of_step, damaged, asked, pending = total.tolist()
    writer.written = not pending and writer.under_way is not None
    if asked and not stop.agreed:
        why = [f"rank {rank}: {why}" for rank, why in enumerate(gather(stop.asked)) if why]
        stop.agreed = ", ".join(why)
        stop.ask("another rank was")
    if not damaged:
        return np.array(of_step), []
    whole = sorted({d for of_rank in gather(found) for d in of_rank})
    for damage in whole if dist.get_rank() == 0 else ():
        log.warn(f"damaged, met at row {damage.position}: {damage.reason}")
    return np.array(of_step), whole

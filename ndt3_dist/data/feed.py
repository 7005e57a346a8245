"""What the order of a run follows from, and which part of it this rank reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.model.contract import Packing
from ndt3_dist.shards.corpus import Corpus

Broadcast = Callable[[Callable[[], Any]], Any]
"""Makes a call on one rank and hands its result to all."""


@dataclass(frozen=True)
class Feed:
    """The windows of a run.

    Attributes:
        corpus: Prepared windows.
        data: Section of the config: what is trained on, in what proportion.
        packing: How the model takes them.
        seed: Of the run.
        global_batch: Rows of a step.
        micro_batch: Rows of a forward pass.
        rank, world_size: Of this process.
        broadcast: How a pass over the whole index is made.
    """

    corpus: Corpus
    data: DataConfig
    packing: Packing
    seed: int = 0
    global_batch: int = 1
    micro_batch: int = 1
    rank: int = 0
    world_size: int = 1
    broadcast: Broadcast = lambda call: call()

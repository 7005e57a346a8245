"""What ranks send each other in a step, and how long it takes.

Volumes are those of DeepSpeed as `engines.engine` sets it up, as a benchmark counted them on two
ranks: gradients summed in fp32, nothing hidden behind computing in stages 0 to 2 (but with
`train.overlap` in stage 2), all that fits behind it in stage 3. Times are those of a ring, at a
share of what a link is sold as.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ndt3_dist.engines.engine_config import TrainConfig
from ndt3_dist.model.flops import Card


class Link(NamedTuple):
    """What joins hosts: bytes a second of one, each way, and whether each GPU has its own."""

    rate: float
    each_gpu: bool


NETWORKS = {
    "ib-ndr": Link(50e9, True),
    "ib-hdr": Link(25e9, True),
    "100gbe": Link(12.5e9, False),
    "25gbe": Link(3.125e9, False),
    "10gbe": Link(1.25e9, False),
}
"""Beside `nvlink`: all GPUs in one domain. Rates are the standards'."""
NVLINK = "nvlink"
REACHED = 0.8
"""Share of a link that a collective reaches (assumed)."""
KEPT = 500_000_000
"""Parameters that ZeRO-3 does not gather again for the backward pass: half of DeepSpeed's
`max_reuse_distance`, on the way to the loss and back. Counted at 45M and 350M alone."""
LATENCY_S = 20e-6
"""Of one collective for each doubling of ranks (assumed)."""


@dataclass(frozen=True)
class Volume:
    """A collective of a step.

    Attributes:
        what: In words.
        bytes: Of the whole tensor.
        times: In a step.
        passes: Of the bytes along the ring: 2 to sum for all, 1 to gather or to scatter.
        hidden: Whether it goes on while the rank computes.
    """

    what: str
    bytes: int
    times: int
    passes: int
    hidden: bool = False


def volumes(parameters: int, train: TrainConfig, accumulation: int) -> list[Volume]:
    """What a rank takes part in, in a step of so many micro-batches."""
    weights = (2 if train.precision == "bf16" else 4) * parameters
    sums, stage = 4 * parameters, train.zero_stage
    if stage == 3:
        again = max(0, weights - weights // parameters * KEPT)
        return [
            Volume("gather weights", weights + again, accumulation, 1, True),
            Volume("sum and scatter gradients (fp32)", sums, accumulation, 1, True),
        ]
    times, hidden = accumulation if stage == 2 else 1, stage == 2 and train.overlap
    found = [Volume("sum gradients (fp32)", sums, times, 2, hidden)]
    if stage:
        found.append(Volume("gather the new weights", weights, 1, 1))
    return found


@dataclass(frozen=True)
class Fabric:
    """GPUs and what joins them.

    Attributes:
        card: Of all.
        gpus: In all.
        per_node: Of a host.
        network: A name of `NETWORKS`, or `NVLINK`.
    """

    card: Card
    gpus: int
    per_node: int
    network: str

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.per_node)

    @property
    def rate(self) -> float:
        """Bytes a second that a ring through all GPUs carries, each way."""
        inside = self.card.link * REACHED
        if self.network == NVLINK or self.nodes == 1:
            return inside
        link = NETWORKS[self.network]
        own = link.rate * (min(self.per_node, self.gpus) if link.each_gpu else 1)
        return min(inside, own * REACHED)

    def seconds(self, volume: Volume) -> float:
        """Of all its times in a step."""
        if self.gpus == 1:
            return 0.0
        on_ring = volume.passes * volume.bytes * (self.gpus - 1) / self.gpus
        latency = LATENCY_S * math.log2(self.gpus) * volume.passes
        return volume.times * (on_ring / self.rate + latency)


@dataclass(frozen=True)
class Exchange:
    """All that is sent in a step.

    Attributes:
        sent: Bytes that a rank sends, along the ring.
        seconds: That it takes.
        exposed: Of those, not behind computing.
    """

    sent: int
    seconds: float
    exposed: float


def exchange(
    fabric: Fabric, parameters: int, train: TrainConfig, accumulation: int, computing_s: float
) -> Exchange:
    """What is sent in a step that computes for so long."""
    parts = volumes(parameters, train, accumulation)
    share = (fabric.gpus - 1) / fabric.gpus
    sent = round(sum(v.passes * v.bytes * v.times * share for v in parts))
    hidden = sum(fabric.seconds(v) for v in parts if v.hidden)
    took = sum(map(fabric.seconds, parts))
    return Exchange(sent, took, took - min(hidden, computing_s))

"""AdamW that clips the global gradient norm itself, alike for every ZeRO stage and rank count.

DeepSpeed sums the norm in float32, in an order that depends on the stage and on how gradients are
partitioned; the last bit of the factor then differs, and soon the losses (docs/LOG.md). Here it is
summed in float64: the factor that float32 gradients are multiplied by is the same.
"""

import math

import torch
import torch.distributed as dist

from ndt3_dist.engines.phases import COMMUNICATION, Phases

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Elements that are squared at once: what fits a CPU's cache, what spares a GPU's memory."""


class ClippedAdamW(torch.optim.AdamW):
    """Steps on gradients of which each rank may hold a part.

    Attributes:
        norm: Global norm, scaled, before clipping at the last step; NaN where there was none.
        skip: Whether to take no step, whatever the norm.
    """

    def __init__(
        self,
        params,
        clip: float,
        partitioned: bool,
        scale: float,
        device,
        phases: Phases | None = None,
        **options,
    ):
        """
        Args:
            clip: Largest norm of the whole gradient.
            partitioned: Whether each rank holds a part of the gradient, and not all of it.
            scale: Gradients are multiplied by it first.
            phases: Clock of the engine that steps it.
        """
        self.clip, self.partitioned, self.scale = clip, partitioned, scale
        self.phases = phases or Phases(device)
        self.norm, self.skip, self.device = math.nan, False, torch.device(device)
        super().__init__(params, **options)

    @torch.no_grad()
    def step(self, closure=None):
        """A step; none where the norm is no number."""
        held = [p.grad for group in self.param_groups for p in group["params"]]
        gradients = [g for g in held if g is not None]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradient in gradients:
            total += squares(gradient)
        if self.partitioned:
            with self.phases.at(COMMUNICATION):
                dist.all_reduce(total)
        self.norm = self.scale * math.sqrt(total.item())
        if self.skip or not math.isfinite(self.norm):
            return None
        factor = self.scale * min(1.0, self.clip / max(self.norm, 1e-30))
        for gradient in gradients if factor != 1 else ():
            gradient.mul_(factor)
        return super().step(closure)


def squares(x: torch.Tensor) -> torch.Tensor:
    """Sum of squares, scalar float64."""
    size, double = CHUNK.get(x.device.type, 1 << 20), torch.float64
    total = torch.zeros((), dtype=double, device=x.device)
    held = torch.empty(min(size, x.numel()), dtype=double, device=x.device)
    for chunk in x.reshape(-1).split(size):
        wide = held[: len(chunk)].copy_(chunk)
        total += wide.dot(wide)
    return total

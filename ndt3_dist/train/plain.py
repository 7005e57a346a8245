"""Single-process training in plain PyTorch: fp32 masters, a model that computes in bf16 or fp32."""

from collections.abc import Mapping

import torch
from torch import nn

from ndt3_dist.config import OptimConfig


class PlainOptimizer:
    """AdamW on fp32 masters of a model whose own weights may be bf16.

    Parameters that require no gradient keep their weights.

    Attributes:
        masters: fp32 weights by name.
    """

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        precision: str,
        scales: Mapping[str, float] | None = None,
    ):
        """
        Args:
            model: Converted to `precision` in place.
            optim: Its schedule is the caller's.
            precision: bf16 or fp32.
            scales: Learning rate of each parameter over that of a step; 1 where none is given.
        """
        self.masters = {
            name: p.detach().float().clone().requires_grad_(p.requires_grad)
            for name, p in model.named_parameters()
        }
        if precision == "bf16":
            model.to(torch.bfloat16)
        self.parameters = dict(model.named_parameters())
        self.clip = optim.grad_clip
        groups: dict[float, list[torch.Tensor]] = {}
        for name, master in self.masters.items():
            if master.requires_grad:
                groups.setdefault((scales or {}).get(name, 1.0), []).append(master)
        self.adamw = torch.optim.AdamW(
            [{"params": masters, "scale": scale} for scale, masters in groups.items()],
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )

    def step(self, lr: float) -> float:
        """Clip, step at learning rate `lr`, refresh the model; returns the gradient norm."""
        for name, parameter in self.parameters.items():
            grad = parameter.grad
            self.masters[name].grad = None if grad is None else grad.float()
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters.values(), self.clip)
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["scale"]
        self.adamw.step()
        self.load(self.masters)
        return float(norm)

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Set masters and model to `weights`."""
        for name, parameter in self.parameters.items():
            self.masters[name].copy_(weights[name])
            parameter.copy_(weights[name])

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the masters."""
        return {name: m.detach().clone() for name, m in self.masters.items()}

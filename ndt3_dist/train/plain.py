"""Single-process training in plain PyTorch: fp32 masters, a model that computes in bf16 or fp32."""

from collections.abc import Mapping

import torch
from torch import nn

from ndt3_dist.train.pretrain_config import OptimConfig


class PlainOptimizer:
    """AdamW on fp32 masters of a model whose own weights may be bf16.

    Parameters that require no gradient keep their weights.

    Attributes:
        masters: fp32 weights by name; the model's own where it computes in fp32.
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
        self.has_copies = precision == "bf16"
        model.float()
        self.masters: dict[str, torch.Tensor] = dict(model.named_parameters())
        if self.has_copies:
            self.masters = {
                name: p.detach().clone().requires_grad_(p.requires_grad)
                for name, p in self.masters.items()
            }
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
            fused=True,
        )

    def step(self, lr: float) -> float:
        """Clip, step at learning rate `lr`, refresh the model; returns the gradient norm."""
        if self.has_copies:
            for name, parameter in self.parameters.items():
                grad = parameter.grad
                self.masters[name].grad = None if grad is None else grad.float()
        norm = nn.utils.clip_grad_norm_(self.masters.values(), self.clip)
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["scale"]
        self.adamw.step()
        for name, parameter in self.parameters.items():
            self.masters[name].grad = parameter.grad = None
        self._refresh()
        return float(norm)

    @torch.no_grad()
    def _refresh(self) -> None:
        for name, parameter in self.parameters.items():
            if self.has_copies and parameter.requires_grad:
                parameter.copy_(self.masters[name])

    def state(self) -> dict[str, torch.Tensor]:
        """What is trained: masters as `weight.NAME`, AdamW's state as `KIND.NAME`."""
        found = {}
        for name, master in self.masters.items():
            if master.requires_grad:
                kinds = {"weight": master.detach(), **self.adamw.state[master]}
                found |= {f"{kind}.{name}": tensor for kind, tensor in kinds.items()}
        return found

    @torch.no_grad()
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave; other tensors in it are passed over."""
        for name, master in self.masters.items():
            if master.requires_grad:
                master.copy_(state[f"weight.{name}"])
                kinds = ("step", "exp_avg", "exp_avg_sq")
                found = {k: state[f"{k}.{name}"] for k in kinds if f"{k}.{name}" in state}
                self.adamw.state[master] = {k: t.to(master.device) for k, t in found.items()}
        self._refresh()

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the masters."""
        return {name: m.detach().clone() for name, m in self.masters.items()}

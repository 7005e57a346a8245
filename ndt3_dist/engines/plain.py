"""Training in plain PyTorch, one process: fp32 masters, a model that computes in bf16 or fp32."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ndt3_dist.checkpoint.steps import KINDS
from ndt3_dist.data.order import seed_of
from ndt3_dist.engines.engine_config import OptimConfig
from ndt3_dist.engines.phases import BACKWARD, FORWARD, OPTIMISER, Phases
from ndt3_dist.model.contract import Output


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

    def step(self, lr: float, finite: bool = True) -> float:
        """Clip, step at learning rate `lr`, refresh the model; returns the gradient norm.

        Where the norm is no number, or the loss is not `finite`, weights stay as they are.
        """
        if self.has_copies:
            for name, parameter in self.parameters.items():
                grad = parameter.grad
                self.masters[name].grad = None if grad is None else grad.float()
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), self.clip))
        if finite and math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = lr * group["scale"]
            self.adamw.step()
        for name, parameter in self.parameters.items():
            self.masters[name].grad = parameter.grad = None
        self.refresh()
        return norm

    @torch.no_grad()
    def refresh(self) -> None:
        """Let the model compute with what the masters are."""
        for name, parameter in self.parameters.items():
            if self.has_copies and parameter.requires_grad:
                parameter.copy_(self.masters[name])

    def trained(self) -> dict[str, torch.Tensor]:
        """Masters that are stepped."""
        return {name: m for name, m in self.masters.items() if m.requires_grad}

    def state_of(self, master: torch.Tensor) -> dict[str, torch.Tensor]:
        """AdamW's state of a master; zero as before its first step."""
        if not self.adamw.state[master]:
            self.adamw.state[master] = {
                "step": torch.zeros((), device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
        return self.adamw.state[master]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the masters."""
        return {name: m.detach().clone() for name, m in self.masters.items()}


class PlainEngine:
    """The `train.run.Engine` of one process.

    Attributes:
        phases: Where the time of its steps goes.
        best: Masters that were kept by `keep_best`; {} where none were.
    """

    BEST = "best"
    """Kind of slices that holds them in a checkpoint."""

    def __init__(
        self,
        model: Any,
        optim: OptimConfig,
        precision: str,
        seed: int,
        device: torch.device,
        scales: Mapping[str, float] | None = None,
    ):
        self.model, self.seed, self.device = model.to(device), seed, device
        self.optimizer = PlainOptimizer(model, optim, precision, scales)
        self.best: dict[str, torch.Tensor] = {}
        self.phases = Phases(device)

    def micro_step(self, batch: Any, counts: list[int], key: tuple[int, int]) -> Output:
        """Forward and backward; what is drawn follows from the seed and the step's number."""
        torch.manual_seed(seed_of("dropout", self.seed, key[0] + 1))
        with self.phases.at(FORWARD):
            out = self.model(batch, *counts)
        with self.phases.at(BACKWARD):
            out.loss.backward()
        return out

    def accumulated(self) -> None:
        """Gradients add up by themselves."""

    def step(self, lr: float, finite: bool = True) -> float:
        with self.phases.at(OPTIMISER):
            return self.optimizer.step(lr, finite)

    def train(self) -> None:
        self.model.train()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train()

    def forward(self, batch: Any) -> Output:
        self.phases.moved()
        return self.model(batch, *(1 for _ in self.model.targets))

    def keep_best(self) -> None:
        """Remember the weights as they are."""
        self.best = self.optimizer.snapshot()

    def slices(
        self, kinds: tuple[str, ...] = (*KINDS, BEST)
    ) -> Iterator[tuple[str, int, dict[str, torch.Tensor]]]:
        for name, master in self.optimizer.trained().items():
            state = self.optimizer.state_of(master)
            held = {"master": master.detach(), **{k: state[k] for k in KINDS[1:]}}
            if self.best:
                held[self.BEST] = self.best[name]
            yield name, 0, {k: t.reshape(-1) for k, t in held.items() if k in kinds}

    def adam_step(self) -> int:
        for master in self.optimizer.trained().values():
            return int(self.optimizer.state_of(master)["step"])
        return 0

    @torch.no_grad()
    def fill(self, read: Callable[[str, int, int], dict[str, torch.Tensor]], step: int) -> None:
        for name, master in self.optimizer.trained().items():
            saved, state = read(name, 0, master.numel()), self.optimizer.state_of(master)
            master.copy_(saved["master"].view_as(master))
            state["step"].fill_(step)
            for kind in KINDS[1:]:
                state[kind].copy_(saved[kind].view_as(master))

    def refresh(self) -> None:
        self.optimizer.refresh()

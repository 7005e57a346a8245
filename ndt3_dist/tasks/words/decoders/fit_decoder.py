"""Train a decoder of one fold, and stop early by a score of all validation words at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.decoders.word_losses import Loss
from ndt3_dist.tasks.words.word_config import TrainingParams

Inputs = dict[str, torch.Tensor]
"""x (words, ...) and what else the model is called with, by name."""
SCORED = 512
"""Words of a batch that is only scored."""


@dataclass(frozen=True)
class Fitted:
    """The best epoch of a training.

    Attributes:
        epoch: Its number, from 0.
        epochs: That were run.
        score: Of validation words.
    """

    epoch: int
    epochs: int
    score: float


def outputs(model: nn.Module, inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """What a model gives of some words, in the state that it is in but for dropout, (rows, ...)."""
    model.eval()
    found = []
    with torch.no_grad():
        for part in np.array_split(rows, max(1, math.ceil(len(rows) / SCORED))):
            found.append(forward(model, inputs, part).float().cpu().numpy())
    return np.concatenate(found)


def forward(model: nn.Module, inputs: Inputs, rows: np.ndarray) -> torch.Tensor:
    """Outputs of some words; one value a word has no axis of its own."""
    at = torch.from_numpy(np.asarray(rows))
    more = {name: values[at] for name, values in inputs.items() if name != "x"}
    found = model(inputs["x"][at], **more)
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def fit(
    model: nn.Module,
    inputs: Inputs,
    target: torch.Tensor,
    train: np.ndarray,
    val: np.ndarray,
    loss: Loss,
    score: Callable[[np.ndarray], float],
    higher: bool,
    asked: TrainingParams,
    seed: int,
) -> Fitted:
    """Train; the model is left with the weights of the epoch that was best on validation words.

    Args:
        inputs, target: Of all words; `train` and `val` are rows of them.
        score: Of the outputs of all validation words together.
        higher: Whether a higher score is better.
        seed: Of the order of the words and of dropout.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise BadInput("the model has nothing to train; take a baseline for what is only evaluated")
    adamw = torch.optim.AdamW(weights, asked.learning_rate, weight_decay=asked.weight_decay)
    schedule = schedule_of(adamw, asked, higher)
    best, best_score, best_epoch, epoch = None, math.nan, 0, 0
    for epoch in range(asked.epochs):
        torch.manual_seed(int(generator("dropout", seed, epoch).integers(1 << 62)))
        model.train()
        batches = batches_of(train, asked.batch_size, seed, epoch)
        for number, rows in enumerate(batches):
            group = number // asked.grad_accumulation_steps * asked.grad_accumulation_steps
            parts = min(asked.grad_accumulation_steps, len(batches) - group)
            part = loss(forward(model, inputs, rows), target[torch.from_numpy(rows)])
            (part / parts).backward()
            if number + 1 == group + parts:
                if asked.clip_grad_norm:
                    nn.utils.clip_grad_norm_(weights, asked.clip_grad_norm)
                adamw.step()
                adamw.zero_grad(set_to_none=True)
        found = score(outputs(model, inputs, val))
        if (
            best is None
            or (found > best_score if higher else found < best_score)
            or (math.isnan(best_score) and not math.isnan(found))
        ):
            best_score, best_epoch = found, epoch
            best = {name: t.detach().clone() for name, t in model.state_dict().items()}
        schedule(found)
        if epoch - best_epoch >= asked.early_stopping_patience:
            break
    model.load_state_dict(best or {})
    return Fitted(best_epoch, epoch + 1, best_score)


def batches_of(rows: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows in an order of each epoch's own; a batch of one word has no variance, and goes."""
    drawn = generator("words", seed, epoch).permutation(rows)
    parts = [drawn[first : first + size] for first in range(0, len(drawn), size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts


def schedule_of(adamw: torch.optim.AdamW, asked: TrainingParams, higher: bool) -> Callable:
    """What is told the score after each epoch: a schedule, or nothing."""
    kind = asked.lr_scheduler or ("plateau" if asked.use_lr_scheduler else None)
    said = {k: float(v) for k, v in (asked.scheduler_params or {}).items()}
    if kind == "cosine_annealing":
        least = asked.learning_rate * asked.cosine_eta_min_factor
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, asked.epochs, least)
        return lambda score: cosine.step()
    if kind == "plateau":
        known: dict[str, Any] = {k: said[k] for k in ("factor", "min_lr", "threshold") if k in said}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            adamw, "max" if higher else "min", patience=int(said.get("patience", 10)), **known
        )
        return plateau.step
    return lambda score: None

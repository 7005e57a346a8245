"""What decoders are trained to lessen, by the names of the podcast benchmark."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from ndt3_dist.errors import BadInput

SURE = 1e-4
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mse(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(predicted, true.to(predicted.dtype))


def cosine_dist(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(predicted, true, dim=-1).mean()


def nll_embedding(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each prediction's own truth among those of its batch."""
    similar = F.normalize(predicted, dim=-1) @ F.normalize(true, dim=-1).T
    return F.cross_entropy(similar, torch.arange(len(true), device=true.device))


def bce(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Of probabilities, both classes of a batch with one half of the weight."""
    true = true.to(predicted.dtype)
    each = F.binary_cross_entropy(predicted.clamp(1e-7, 1 - 1e-7), true, reduction="none")
    positive = true.sum()
    if positive == 0 or positive == len(true):
        return each.mean()
    weight = torch.where(true > 0.5, 0.5 / positive, 0.5 / (len(true) - positive))
    return (weight * each).sum()


def bce_with_logits(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(predicted, true.to(predicted.dtype))


def are_probabilities(outputs: torch.Tensor) -> bool:
    """Whether rows sum to 1 already, so that no softmax may be taken of them."""
    near = (outputs.sum(dim=-1) - 1).abs().max() < SURE
    return bool((outputs.min() >= 0) & near)


def cross_entropy(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Of logits, or of probabilities where a model gives these; -100 is left out."""
    if are_probabilities(predicted.detach()):
        return F.nll_loss(predicted.clamp_min(1e-12).log(), true)
    return F.cross_entropy(predicted, true)


def weighted_cross_entropy(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """`cross_entropy` with the classes of a batch weighted alike."""
    counts = torch.bincount(true[true >= 0], minlength=predicted.shape[1]).to(predicted.dtype)
    weight = torch.where(counts > 0, 1 / counts.clamp_min(1), 0)
    if are_probabilities(predicted.detach()):
        return F.nll_loss(predicted.clamp_min(1e-12).log(), true, weight)
    return F.cross_entropy(predicted, true, weight)


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "cosine_dist": cosine_dist,
    "nll_embedding": nll_embedding,
    "bce": bce,
    "bce_with_logits": bce_with_logits,
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
}


def default_losses(kind: str, outputs: torch.Tensor) -> list[str]:
    """Of a kind of target, by what a model gives of some words."""
    if kind != "class":
        return ["mse"]
    if outputs.ndim > 1 and outputs.shape[1] > 1:
        return ["cross_entropy"]
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    return ["bce"] if inside else ["bce_with_logits"]


def total(losses: Sequence[Loss], weights: Sequence[float]) -> Loss:
    """Their weighted sum. Raises BadInput where the output has another shape than the target."""

    def loss(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        if len(predicted) != len(true) or (
            true.is_floating_point() and predicted.shape != true.shape
        ):
            raise BadInput(
                f"the model gives {tuple(predicted.shape)} for targets {tuple(true.shape)}; see "
                "model_spec.params.embedding_dim"
            )
        pairs = zip(losses, weights, strict=True)
        return torch.stack([weight * one(predicted, true) for one, weight in pairs]).sum()

    return loss

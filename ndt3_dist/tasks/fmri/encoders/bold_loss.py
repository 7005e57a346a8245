"""Losses of predicted parcel time series: masked, and counted by valid values.

A correlation is that of one parcel of one subject over the valid samples of one window. Its loss
counts as many times as there are samples, so that a step's loss is a mean over values whatever
lengths its windows have; of windows of one length it is the plain mean of -r.
"""

import torch

EPS = 1e-6
"""Of the product of two standard deviations: what does not vary has r 0, and no gradient."""


def correlations(
    predicted: torch.Tensor, true: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """r over time of each window, subject and parcel, and how many samples each is of.

    Args:
        predicted, true: (windows, time, subjects, parcels), anything where not valid.
        valid: As large, bool.
    Returns:
        Both (windows, subjects, parcels).
    """
    number = valid.sum(1)
    some = number.clamp(min=1)[:, None]
    predicted, true = torch.where(valid, predicted, 0), torch.where(valid, true, 0)
    predicted = torch.where(valid, predicted - predicted.sum(1, keepdim=True) / some, 0)
    true = torch.where(valid, true - true.sum(1, keepdim=True) / some, 0)
    size = (predicted.square().sum(1) * true.square().sum(1)).clamp(min=EPS**2).sqrt()
    r = (predicted * true).sum(1) / torch.maximum(size, EPS * some[:, 0])
    return r, number


def pearson_sums(predicted: torch.Tensor, true: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """-r times the number of its samples, summed over subjects and parcels, (windows,)."""
    r, number = correlations(predicted, true, valid)
    return -(r * number).flatten(1).sum(1)


def mse_sums(predicted: torch.Tensor, true: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Squared errors of valid values, summed, (windows,)."""
    return torch.where(valid, predicted - true, 0).square().flatten(1).sum(1)


SUMS = {"pearson": pearson_sums, "mse": mse_sums}

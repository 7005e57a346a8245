"""NDT3's two losses, of each token: callers sum, and divide by counts of the whole global step.

Spikes: cross-entropy of 22 count classes against a Poisson-softened target. Covariates: squared
error. Source: joel99/ndt3 at 472466a.
"""

import torch
import torch.nn.functional as F

from ndt3_dist.model import fused


def poisson_targets(classes: int) -> torch.Tensor:
    """Soft targets of each count, (classes, classes) float32.

    Row c is Poisson(n; c) over n = 0 .. classes - 1, renormalised; row 0 is one-hot. The last row
    is all zero, as upstream's loop leaves it: such counts cost nothing but stay in the denominator.
    """
    table = torch.zeros(classes, classes, dtype=torch.float64)
    table[0, 0] = 1
    n = torch.arange(classes, dtype=torch.float64)
    for count in range(1, classes - 1):
        log_p = n * torch.log(torch.tensor(float(count), dtype=torch.float64))
        table[count] = (log_p - count - torch.lgamma(n + 1)).exp()
        table[count] /= table[count].sum()
    return table.float()


def spike_losses(
    logits: torch.Tensor, counts: torch.Tensor, channels: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Softened cross-entropy of each neural token, summed over its real channels.

    Args:
        logits: (spike_tokens, channels_per_token, classes).
        counts: (spike_tokens, channels_per_token) uint8.
        channels: Real channels of each token, (spike_tokens,).
        targets: `poisson_targets`, (classes, classes).
    Returns:
        (spike_tokens,) float32.
    """
    if fused.is_used(logits):
        return fused.spike_losses(logits, counts, channels, targets)
    soft = targets[counts.clamp(max=len(targets) - 1).int()]  # (tokens, channels, classes)
    loss = -(soft * F.log_softmax(logits.float(), dim=-1)).sum(-1)
    real = torch.arange(counts.shape[1], device=counts.device) < channels[:, None]
    return (loss * real).sum(-1)


def covariate_losses(
    predicted: torch.Tensor, values: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Squared error of each covariate token, 0 where not valid; all shapes (covariate_tokens,)."""
    return F.mse_loss(predicted.float(), values, reduction="none") * valid

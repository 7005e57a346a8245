"""Weights between those that a fine-tune began with and those that it came to (WiSE-FT).

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"; joel99/ndt3 has it as
`weight_space_ensemble_alpha`.
"""

import torch

from ndt3_dist import log
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.tune.held_back import HeldBack

Weights = dict[str, torch.Tensor]


def between(before: Weights, after: Weights, alpha: float) -> Weights:
    """(1 - alpha) * before + alpha * after, exact at 0 and 1; of a weight without a `before`, such
    as one that began anew, all of `after`."""
    return {
        name: (1 - alpha) * before[name] + alpha * weight if name in before else weight
        for name, weight in after.items()
    }


def best_alpha(
    decoder: NDT3,
    before: Weights,
    after: Weights,
    alphas: tuple[float, ...],
    held_back: HeldBack,
    metric: str,
) -> tuple[float, dict[str, float]]:
    """The share of the way that does best on what was held back, and its scores.

    Args:
        decoder: Takes one after the other; in evaluation mode.
        metric: That decides; of equal ones the first.
    """
    scores: dict[float, dict[str, float]] = {}
    for alpha in log.progress(dict.fromkeys(alphas), "scoring weights between"):
        decoder.load_state_dict(between(before, after, alpha))
        scores[alpha] = held_back.of(decoder)
    found = max(scores, key=lambda alpha: scores[alpha][metric])
    told = ", ".join(f"{alpha:g}: {each[metric]:.4f}" for alpha, each in scores.items())
    log.say(f"{metric.removeprefix('val_')} by train.wise: {told}; {found:g} is taken")
    return found, scores[found]

"""What a session's counts say of those that a spike head expects: a gain and a power a channel.

Rates drift from day to day, and units are replaced: of such a channel the head expects what another
unit would have done. Poisson regression of its counts on the logarithm of what is expected finds
how much of it holds there, by Newton's method.
"""

import numpy as np

from ndt3_dist.model.readout import LEAST

SURE = 10.0
"""How sure it is beforehand that a channel's power is that of all channels: inverse variance."""
ROUNDS = 12


def fit_rates(counts: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and power of each channel, (channels,) float32 both: gain * expected ** power.

    Args:
        counts: (bins, channels).
        expected: The same shape.
    """
    counts = counts.astype(np.float64)
    x = np.log(np.maximum(expected, LEAST).astype(np.float64))
    mean = x.mean(0)
    level = np.log((counts.sum(0) + 1) / len(counts)), np.zeros(counts.shape[1])
    level, power = _newton(counts, x - mean, *level, None)
    level, power = _newton(counts, x - mean, level, power, power[0])
    return np.exp(level - power * mean).astype(np.float32), power.astype(np.float32)


def _newton(counts, x, level, power, likely: float | None):
    """Log rate level + power * x of each channel; with `likely` None one power for all of them."""
    sure = SURE if likely is not None else 0.0
    for _ in range(ROUNDS):
        rate = np.exp(level + power * x)
        by_level, by_both = rate.sum(0) + 1e-9, (rate * x).sum(0)
        by_power = (rate * x * x).sum(0) + sure + 1e-9 - by_both**2 / by_level
        off = (counts - rate).sum(0)
        slope = ((counts - rate) * x).sum(0) - sure * (power - (likely or 0))
        slope = slope - by_both / by_level * off
        if likely is None:
            slope, by_power = slope.sum(), by_power.sum()
        step = np.clip(slope / by_power, -0.5, 0.5)
        level = level + np.clip((off - by_both * step) / by_level, -1, 1)
        power = power + step
    return level, power

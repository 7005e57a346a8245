"""Trials of spikes driven by a Lorenz attractor, with the rates that they were drawn from.

The three states of the system, each with mean 0 and deviation 1 over all trials, drive the log
rates of all units by random weights. Nothing but the rates is known of a spike, so that they score
the best that any model can, up to chance.

Source: the synthetic data of Sussillo et al. 2016 (arXiv:1608.06315).
"""

from dataclasses import dataclass

import numpy as np

SIGMA, RHO, BETA = 10.0, 28.0, 8 / 3
STEPS = 4
"""Of the integration in a bin."""
SETTLE = 500
"""Steps before a trial begins."""


@dataclass(frozen=True)
class LorenzTrials:
    """Trials.

    Attributes:
        states: (trials, bins, 3).
        rates: Expected counts of a bin, (trials, bins, units).
        spikes: Counts drawn from them, uint8.
    """

    states: np.ndarray
    rates: np.ndarray
    spikes: np.ndarray


def lorenz_trials(
    trials: int,
    bins: int,
    units: int,
    seed: int,
    mean_count: float = 0.3,
    gain: float = 0.7,
    speed: float = 0.05,
) -> LorenzTrials:
    """Draw trials, each from a start of its own on the attractor.

    Args:
        mean_count: Geometric mean over units of the median count of a bin.
        gain: Deviation of a unit's log rate over time.
        speed: Time of the system in a bin.
    """
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(trials, 3)) + np.array([0.0, 0.0, 25.0])
    states, step = np.empty((trials, bins, 3)), speed / STEPS
    for _ in range(SETTLE):
        state = _rk4(state, step)
    for bin_ in range(bins):
        states[:, bin_] = state
        for _ in range(STEPS):
            state = _rk4(state, step)
    flat = states.reshape(-1, 3)
    states = (states - flat.mean(axis=0)) / flat.std(axis=0)
    weights = rng.normal(size=(3, units))
    weights *= gain / np.linalg.norm(weights, axis=0)
    rates = np.exp(states @ weights + np.log(mean_count) + 0.3 * rng.normal(size=units))
    return LorenzTrials(states, rates, rng.poisson(rates).clip(max=255).astype(np.uint8))


def _rk4(x: np.ndarray, step: float) -> np.ndarray:
    one = _slope(x)
    two = _slope(x + step / 2 * one)
    three = _slope(x + step / 2 * two)
    return x + step / 6 * (one + 2 * two + 2 * three + _slope(x + step * three))


def _slope(x: np.ndarray) -> np.ndarray:
    a, b, c = x.T
    return np.column_stack([SIGMA * (b - a), a * (RHO - c) - b, a * b - BETA * c])

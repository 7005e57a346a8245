"""The best causal decoding of a simulated recording, by a filter that knows the truth.

The simulator's latent state is linear and Gaussian, its spikes are Poisson with a smooth rate. For
such a model a Laplace-Gaussian filter is close to the exact posterior mean, so the R2 it reaches is
a ceiling for any causal decoder, learned or not, up to the approximation and to sampling error.
Input: spike counts in 10 ms bins, shape (bins, units). Output: hand velocity in cm/s.

Invariants: the estimate of a bin depends on the counts of that bin and of earlier ones only; the
hand lags the state by `lead_bins`, which the filter handles with a delay line of past velocities.

Source: Koyama, Castellanos Perez-Bolde, Shalizi and Kass 2010, J Am Stat Assoc 105:170.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import get_lapack_funcs

# Mean of |v| for a standard two-dimensional Gaussian: speed terms are counted from here.
MEAN_SPEED = np.sqrt(np.pi / 2)
# Rounds off the tip of |v| at rest (in SDs of velocity) so that the rate has a gradient there.
SPEED_SOFTNESS = 0.3
# One step from the prior mean loses about 0.001 of R2; the cost is a second pass over the units.
NUM_NEWTON_STEPS = 2
# numpy's solve without its checks, which take longer than the solution.
(SOLVE,) = get_lapack_funcs(("gesv",), (np.empty(0),))


@dataclass(frozen=True)
class StateSpace:
    """Latent dynamics in 10 ms steps; every state has unit variance, velocity comes last."""

    transition: np.ndarray  # (states, states)
    noise_cov: np.ndarray  # (states, states)
    stationary_cov: np.ndarray  # (states, states)
    position_scale_cm: float  # SD of each position axis
    velocity_scale_cm_s: float  # SD of each velocity axis
    lead_bins: int  # the hand does what the state did this many bins ago
    bin_size_s: float


@dataclass(frozen=True)
class Readout:
    """How the units of one session read the state."""

    offset: np.ndarray  # (units,) log rate in Hz, before saturation, at mean speed
    weights: np.ndarray  # (units, states) log rate per SD of the state
    speed: np.ndarray  # (units,) log rate per SD of velocity
    max_rate_hz: float


def soft_speed(velocity: np.ndarray) -> np.ndarray:
    """Speed above its mean, smooth at rest.

    Args:
        velocity: In SDs, shape (..., 2).
    Returns:
        In SDs, shape (...,).
    """
    squared = velocity[..., 0] ** 2 + velocity[..., 1] ** 2
    return np.sqrt(squared + SPEED_SOFTNESS**2) - MEAN_SPEED


def firing_rates(states: np.ndarray, readout: Readout) -> np.ndarray:
    """Rates of all units: exponential at low drive, saturating at `max_rate_hz`.

    Args:
        states: Shape (bins, states).
    Returns:
        Rates in Hz, shape (bins, units).
    """
    drive = states @ readout.weights.T + readout.offset  # (bins, units)
    drive += soft_speed(states[:, -2:])[:, None] * readout.speed
    return readout.max_rate_hz / (1.0 + np.exp(np.log(readout.max_rate_hz) - drive))


def decode_velocity(counts: np.ndarray, space: StateSpace, readout: Readout) -> np.ndarray:
    """Filter spike counts into hand velocity.

    Args:
        counts: Spikes per 10 ms bin, shape (bins, units).
        readout: The true tuning of these units.
    Returns:
        Row t estimates the hand velocity averaged over samples t - 1 and t, in cm/s, from the
        counts of bins 0 to t; shape (bins, 2).
    """
    num_states = space.transition.shape[0]
    num_lags = space.lead_bins + 1  # one more than the lead, to average two samples
    size = num_states + 2 * num_lags
    mean, cov = np.zeros(size), np.zeros((size, size))
    cov[:num_states, :num_states] = space.stationary_cov
    for _ in range(num_lags):  # fills the delay line with its exact prior
        mean, cov = _predict(mean, cov, space)

    loading = np.column_stack([readout.weights, readout.speed])  # (units, states + 1)
    estimates = np.empty((len(counts), 2))
    for t, count in enumerate(np.asarray(counts, dtype=np.float64)):
        mean, cov = _predict(mean, cov, space)
        mean, cov = _observe(mean, cov, count, loading, readout, space.bin_size_s)
        estimates[t] = 0.5 * (mean[-2:] + mean[-4:-2])
    return estimates * space.velocity_scale_cm_s


def decoding_r2(velocity: np.ndarray, estimates: np.ndarray) -> float:
    """Variance-weighted R2 of mean velocity in 20 ms bins.

    Args:
        velocity: True hand velocity at 100 Hz, shape (bins, 2).
        estimates: From `decode_velocity`, shape (bins, 2).
    Returns:
        One number over both axes; 1 is perfect, 0 is the mean.
    """
    num_pairs = len(velocity) // 2
    truth = velocity[: 2 * num_pairs].reshape(num_pairs, 2, 2).mean(axis=1)
    error = truth - estimates[1 : 2 * num_pairs : 2]
    return float(1.0 - (error**2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())


def _predict(mean: np.ndarray, cov: np.ndarray, space: StateSpace) -> tuple[np.ndarray, np.ndarray]:
    """One step of the dynamics; the velocity before the step enters the delay line."""
    n = space.transition.shape[0]
    # Velocity is the last state and the delay line follows it: shifting is moving one block by 2.
    past = slice(n - 2, len(mean) - 2)
    new_mean, new_cov = np.empty_like(mean), np.empty_like(cov)
    new_mean[:n] = space.transition @ mean[:n]
    new_mean[n:] = mean[past]
    new_cov[:n, :n] = space.transition @ cov[:n, :n] @ space.transition.T + space.noise_cov
    cross = cov[past, :n] @ space.transition.T
    new_cov[n:, :n], new_cov[:n, n:] = cross, cross.T
    new_cov[n:, n:] = cov[past, past]
    return new_mean, new_cov


def _observe(
    mean: np.ndarray,
    cov: np.ndarray,
    count: np.ndarray,
    loading: np.ndarray,
    readout: Readout,
    bin_size_s: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mode and curvature after one bin of counts, by Fisher scoring."""
    n = loading.shape[1] - 1
    prior, prior_cov, log_max = mean[:n], cov[:n, :n], np.log(readout.max_rate_hz)
    point, full = prior, np.empty(n + 1)
    right, gain, identity = np.empty((n, n + 1)), np.zeros((n, n + 1)), np.eye(n)
    for _ in range(NUM_NEWTON_STEPS):
        norm = np.sqrt(point[-2] ** 2 + point[-1] ** 2 + SPEED_SOFTNESS**2)
        slope = point[-2:] / norm  # gradient of soft_speed
        full[:n], full[n] = point, norm - MEAN_SPEED
        drive = readout.offset + loading @ full
        saturation = 1.0 / (1.0 + np.exp(log_max - drive))
        expected = (readout.max_rate_hz * bin_size_s) * saturation
        free = 1.0 - saturation
        gradient = loading.T @ ((count - expected) * free)
        fisher = loading.T @ (loading * (expected * free * free)[:, None])
        # Chain rule: the last column of loading acts on velocity through the speed.
        gradient[n - 2 : n] += gradient[n] * slope
        fisher[:, n - 2 : n] += fisher[:, n, None] * slope
        fisher[n - 2 : n] += slope[:, None] * fisher[n]
        info = fisher[:n, :n]
        right[:, 0], right[:, 1:] = gradient[:n] + info @ (point - prior), info
        # This form never inverts the prior covariance, which is close to singular.
        gain = SOLVE(identity + info @ prior_cov, right)[2]
        point = prior + prior_cov @ gain[:, 0]
    columns = cov[:, :n]
    new_cov = cov - columns @ gain[:, 1:] @ columns.T
    return mean + columns @ gain[:, 0], 0.5 * (new_cov + new_cov.T)

"""The model behind the simulated recordings: shared latent dynamics, tuning per subject and day.

A hand pursues a target that wanders at random. Its velocity is the command that a latent motor
cortical state held 100 ms earlier; units are Poisson and read that state. The latent dynamics are
shared by all sessions and subjects, tuning belongs to the subject and drifts from day to day.
Everything is drawn from numbered random streams of one seed.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov

from ndt3_dist.simulate.oracle import Readout, StateSpace

ARRAYS = ((("M1", 96),), (("M1", 64),), (("M1", 96), ("PMd", 96)))  # per subject, cycled
# Spike times are multiples of 2**-15 s, close to the 30 kHz of lab amplifiers; a power of two is
# exact in binary, so the float64 times compress to under a third.
CLOCK_HZ = 32768
# One random stream per purpose: adding a session never changes another one.
DYNAMICS, TUNING, STATES, SPIKES, TRIALS, DATE = range(6)


@dataclass(frozen=True)
class Parameters:
    """Fixed from the literature before any decoder was run; 'choice' marks what it leaves open."""

    # 10 ms, fine against the smoothing of hand and latents. Choice.
    bin_size_s: float = 0.01
    # Pursuit of a Gaussian, low-pass random stimulus (Paninski et al. 2004, J Neurophysiol 91:515):
    # position is white noise through three equal lags, so velocity peaks near 0.45 Hz. Choice.
    hand_time_constant_s: float = 0.25
    # Puts speed near 12 cm/s, the range of planar reaching and pursuit tasks. Choice.
    position_sd_cm: float = 4.0
    # Velocity encoding leads the hand by about 100 ms (Paninski et al. 2004; Moran and Schwartz
    # 1999, J Neurophysiol 82:2676; 122 ms in Wang et al. 2007, J Neurophysiol 97:4258).
    lead_s: float = 0.10
    # Damped rotations of 1 to 2.5 Hz (Churchland et al. 2012, Nature 487:51); about ten shared
    # dimensions, preserved over days (Gallego et al. 2020, Nat Neurosci 23:260) and across
    # subjects (Safaie et al. 2023, Nature 623:765).
    driven_rotations_hz: tuple[float, ...] = (1.0, 1.7, 2.5)
    driven_decay_s: float = 0.2
    # Variance of these latents that the velocity command explains. Choice.
    driven_fraction: float = 0.7
    # Latents unrelated to movement: a slow pair (arousal-like) and a fast one. The noise
    # correlations they make are weak, 0.02 on average; reports span 0.01 to 0.2 (Cohen and Kohn
    # 2011, Nat Neurosci 14:811). Choice of numbers.
    free_rotations_hz: tuple[float, ...] = (0.1, 3.0)
    free_decay_s: tuple[float, ...] = (1.0, 0.15)
    # Motor cortical rates average about 10 Hz with a long right tail (log-normal: Buzsaki and
    # Mizuseki 2014, Nat Rev Neurosci 15:264).
    baseline_median_hz: float = 8.0
    baseline_log_sd: float = 0.7
    # Motor cortical units peak at tens of spikes a second, rarely above this. Choice.
    max_rate_hz: float = 100.0
    # Cosine tuning with linear speed scaling (Moran and Schwartz 1999); single cells encode
    # velocity weakly (Paninski et al. 2004). Log rate per SD of velocity. Choice of numbers.
    velocity_gain_median: float = 0.25
    velocity_gain_log_sd: float = 0.6
    # Most but not all units of an array are tuned to velocity. Choice.
    tuned_fraction: float = 0.8
    # PMd is less bound to the ongoing movement than M1. Choice of number.
    pmd_gain: float = 0.6
    # Untuned speed term of Moran and Schwartz 1999, mostly positive. Choice of numbers.
    speed_gain_mean: float = 0.10
    speed_gain_sd: float = 0.10
    # Log rate per SD of each latent: together about as strong as velocity. Choice.
    driven_loading_sd: float = 0.15
    free_loading_sd: float = 0.12
    # Units on an electrode: none, one, two (Utah arrays after sorting). Choice.
    units_per_electrode: tuple[float, ...] = (0.15, 0.60, 0.25)
    # 57 % of units are stable through 7 days (Dickey et al. 2009, J Neurophysiol 102:1331), that is
    # 0.57 ** (1 / 7) a day.
    daily_survival: float = 0.923
    # Tuning of a unit that survives is stable (Stevenson et al. 2011, J Neurophysiol 106:764;
    # Fraser and Schwartz 2012, J Neurophysiol 107:1970). Small daily changes. Choice of numbers.
    daily_rotation_sd_deg: float = 8.0
    daily_gain_log_sd: float = 0.10
    daily_baseline_log_sd: float = 0.15


PARAMETERS = Parameters()


@dataclass(frozen=True)
class Population:
    """The units of one subject on one day; arrays have one row per unit."""

    electrode: np.ndarray  # (units,) int
    baseline_hz: np.ndarray  # (units,)
    velocity_gain: np.ndarray  # (units,)
    preferred_rad: np.ndarray  # (units,)
    speed_gain: np.ndarray  # (units,)
    loadings: np.ndarray  # (units, latents)


def make_dynamics(seed: int, parameters: Parameters = PARAMETERS) -> StateSpace:
    """Discretise the latent dynamics: rotations, then position, acceleration, velocity (2 each).

    Args:
        seed: Draws how the velocity command enters each rotation.
    Returns:
        Exact 10 ms steps of the continuous system, all states scaled to unit variance.
    """
    p, rng = parameters, np.random.default_rng([seed, DYNAMICS])
    rates_hz = (*p.driven_rotations_hz, *p.free_rotations_hz)
    decays_s = (*[p.driven_decay_s] * len(p.driven_rotations_hz), *p.free_decay_s)
    num_latents = 2 * len(rates_hz)
    size = num_latents + 6
    drift, noise = np.zeros((size, size)), np.zeros((size, size))  # d/dt, per s

    eye = np.eye(2)
    position, acceleration, velocity = (
        slice(num_latents + k, num_latents + k + 2) for k in (0, 2, 4)
    )
    k = 1.0 / p.hand_time_constant_s
    drift[position, velocity] = eye
    drift[velocity, acceleration] = eye
    drift[acceleration, position] = -(k**3) * eye
    drift[acceleration, velocity] = -3 * k**2 * eye
    drift[acceleration, acceleration] = -3 * k * eye
    noise[acceleration, acceleration] = eye

    own_variance, own_noise = np.empty(num_latents), np.empty(num_latents)
    for i, (rate_hz, decay_s) in enumerate(zip(rates_hz, decays_s, strict=True)):
        plane, omega = slice(2 * i, 2 * i + 2), 2 * np.pi * rate_hz
        drift[plane, plane] = [[-1 / decay_s, -omega], [omega, -1 / decay_s]]
        is_driven = i < len(p.driven_rotations_hz)
        if is_driven:
            drift[plane, velocity] = np.linalg.qr(rng.standard_normal((2, 2)))[0]
        own_variance[plane] = 1.0 - p.driven_fraction * is_driven
        own_noise[plane] = 2 * own_variance[plane] / decay_s

    # Without noise of their own the rotations hold what velocity drives: scale that to its share.
    driven = np.diag(solve_continuous_lyapunov(drift, -noise))[:num_latents]
    for i in range(len(p.driven_rotations_hz)):
        plane = slice(2 * i, 2 * i + 2)
        drift[plane, velocity] *= np.sqrt(p.driven_fraction / driven[plane].mean())
    noise[:num_latents, :num_latents] = np.diag(own_noise)

    cov = solve_continuous_lyapunov(drift, -noise)
    scale = np.sqrt(np.diag(cov))
    transition = expm(drift * p.bin_size_s) * scale[None, :] / scale[:, None]
    cov = cov / np.outer(scale, scale)
    noise_cov = cov - transition @ cov @ transition.T
    return StateSpace(
        transition=transition,
        noise_cov=0.5 * (noise_cov + noise_cov.T),
        stationary_cov=cov,
        position_scale_cm=p.position_sd_cm,
        velocity_scale_cm_s=float(p.position_sd_cm * scale[-1] / scale[num_latents]),
        lead_bins=round(p.lead_s / p.bin_size_s),
        bin_size_s=p.bin_size_s,
    )


def draw_population(
    electrode: np.ndarray, is_pmd: np.ndarray, rng: np.random.Generator, p: Parameters = PARAMETERS
) -> Population:
    """Draw units that were never seen before.

    Args:
        electrode: Electrode of each unit, shape (units,).
        is_pmd: Whether the unit lies in PMd, shape (units,).
    Returns:
        The population.
    """
    n, num_driven = len(electrode), 2 * len(p.driven_rotations_hz)
    baseline = p.baseline_median_hz * np.exp(p.baseline_log_sd * rng.standard_normal(n))
    gain = p.velocity_gain_median * np.exp(p.velocity_gain_log_sd * rng.standard_normal(n))
    loadings = rng.standard_normal((n, num_driven + 2 * len(p.free_rotations_hz)))
    loadings[:, :num_driven] *= p.driven_loading_sd
    loadings[:, num_driven:] *= p.free_loading_sd
    return Population(
        electrode=electrode,
        baseline_hz=baseline,
        velocity_gain=gain * (rng.random(n) < p.tuned_fraction) * np.where(is_pmd, p.pmd_gain, 1.0),
        preferred_rad=rng.uniform(0, 2 * np.pi, n),
        speed_gain=p.speed_gain_mean + p.speed_gain_sd * rng.standard_normal(n),
        loadings=loadings,
    )


def subject_populations(
    seed: int, subject: int, days: int, parameters: Parameters = PARAMETERS
) -> list[Population]:
    """The units of one subject on consecutive days; row i keeps its electrode over all days.

    Args:
        subject: Number of the subject, from 0.
    Returns:
        One population a day. Each day is the one before, drifted, with some units replaced.
    """
    p, arrays = parameters, ARRAYS[subject % len(ARRAYS)]
    rng = np.random.default_rng([seed, TUNING, subject, 0])
    pmd_electrode = np.repeat([name == "PMd" for name, _ in arrays], [n for _, n in arrays])
    num_units = rng.choice(len(p.units_per_electrode), len(pmd_electrode), p=p.units_per_electrode)
    electrode = np.repeat(np.arange(len(pmd_electrode)), num_units)
    is_pmd = pmd_electrode[electrode]
    populations = [draw_population(electrode, is_pmd, rng, p)]
    for day in range(1, days):
        rng, old = np.random.default_rng([seed, TUNING, subject, day]), populations[-1]
        fresh, n = draw_population(electrode, is_pmd, rng, p), len(electrode)
        replaced = rng.random(n) > p.daily_survival
        gain = np.exp(p.daily_gain_log_sd * rng.standard_normal(n))
        drifted = Population(
            electrode=electrode,
            baseline_hz=old.baseline_hz * np.exp(p.daily_baseline_log_sd * rng.standard_normal(n)),
            velocity_gain=old.velocity_gain * gain,
            preferred_rad=old.preferred_rad
            + np.deg2rad(p.daily_rotation_sd_deg) * rng.standard_normal(n),
            speed_gain=old.speed_gain * gain,
            loadings=old.loadings * gain[:, None],
        )
        mixed = {
            name: np.where(replaced.reshape(-1, *[1] * (new.ndim - 1)), new, getattr(drifted, name))
            for name, new in vars(fresh).items()
        }
        populations.append(Population(**mixed))
    return populations


def make_readout(population: Population, parameters: Parameters = PARAMETERS) -> Readout:
    """Tuning as weights on the state; a unit fires at its baseline at mean speed."""
    p, n = parameters, len(population.electrode)
    baseline = np.clip(population.baseline_hz, 0.2, 0.6 * p.max_rate_hz)
    direction = np.column_stack(
        [np.cos(population.preferred_rad), np.sin(population.preferred_rad)]
    )
    velocity = population.velocity_gain[:, None] * direction  # (units, 2)
    return Readout(
        offset=np.log(baseline / (1.0 - baseline / p.max_rate_hz)),
        weights=np.hstack([population.loadings, np.zeros((n, 4)), velocity]),
        speed=population.speed_gain,
        max_rate_hz=p.max_rate_hz,
    )


def symmetric_root(cov: np.ndarray) -> np.ndarray:
    """The one symmetric S with S @ S = cov, positive semidefinite of any rank.

    An eigenvector's sign, and the basis where eigenvalues are equal, are the choice of the BLAS
    kernel that a processor gets; this root does not depend on them, so that every machine draws
    the same recordings.
    """
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def draw_states(space: StateSpace, num_bins: int, rng: np.random.Generator) -> np.ndarray:
    """A stationary path of the latent state, shape (num_bins, states), in SDs."""
    size = len(space.transition)
    innovations = rng.standard_normal((num_bins, size)) @ symmetric_root(space.noise_cov)
    states = np.empty((num_bins, size))
    state = symmetric_root(space.stationary_cov) @ rng.standard_normal(size)
    for t in range(num_bins):
        state = space.transition @ state + innovations[t]
        states[t] = state
    return states


def draw_spikes(
    rates_hz: np.ndarray, bin_size_s: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson spikes at rates that are constant within a bin.

    Args:
        rates_hz: Shape (bins, units).
        bin_size_s: Length of a bin.
    Returns:
        Times in s, shape (spikes,), unit by unit and strictly increasing within a unit; the end of
        each unit in that array, shape (units,); counts, shape (bins, units), uint8.
    """
    num_bins, num_units = rates_hz.shape
    edges = np.ceil(np.arange(num_bins + 1) * (bin_size_s * CLOCK_HZ) - 1e-6).astype(np.int64)
    drawn = rng.poisson(rates_hz.T * bin_size_s)  # (units, bins)
    unit, bin_index = np.nonzero(drawn)
    num = drawn[unit, bin_index]
    unit, bin_index = np.repeat(unit, num), np.repeat(bin_index, num)
    width = edges[bin_index + 1] - edges[bin_index]
    ticks = edges[bin_index] + (rng.random(len(unit)) * width).astype(np.int64)
    # A sorted unit never fires twice in one tick: the rare double is dropped.
    keys = np.unique(unit * edges[-1] + ticks)
    unit, ticks = np.divmod(keys, edges[-1])
    bin_index = np.searchsorted(edges, ticks, side="right") - 1
    counts = np.bincount(bin_index * num_units + unit, minlength=num_bins * num_units)
    ends = np.cumsum(np.bincount(unit, minlength=num_units))
    return ticks / CLOCK_HZ, ends, counts.reshape(num_bins, num_units).astype(np.uint8)

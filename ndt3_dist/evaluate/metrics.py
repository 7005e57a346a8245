"""Decoding scores, each under its own name.

Source: FALCON's evaluator for the headline (variance-weighted per session).
"""

import numpy as np


def r2_per_dimension(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1 - squared error / squared deviation of each dimension over its valid bins.

    Args:
        true: (bins, dims), NaN where not valid.
        predicted: (bins, dims).
    Returns:
        (dims,); NaN where a dimension is constant or has no valid bin.
    """
    error, spread = _error_and_spread(true, predicted)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, 1 - error / spread, np.nan)


def r2_variance_weighted(true: np.ndarray, predicted: np.ndarray) -> float:
    """1 - all squared errors / all squared deviations from each dimension's own mean.

    The mean of `r2_per_dimension` weighted by deviation: a constant dimension has no weight.
    """
    error, spread = _error_and_spread(true, predicted)
    varies = spread > 0
    return float(1 - error[varies].sum() / spread.sum()) if varies.any() else float("nan")


def r2_flat(true: np.ndarray, predicted: np.ndarray) -> float:
    """R2 of all valid values as one vector, deviations from their common mean: NDT3's own."""
    valid = np.isfinite(true)
    values = true[valid].astype(np.float64)
    spread = ((values - values.mean()) ** 2).sum() if len(values) else 0.0
    return float(1 - ((values - predicted[valid]) ** 2).sum() / spread) if spread else float("nan")


def bits_per_spike(counts: np.ndarray, rates: np.ndarray) -> float:
    """Poisson log-likelihood of counts above that of each channel's mean rate, per spike.

    Args:
        counts: (bins, channels).
        rates: Expected counts, (bins, channels).
    Returns:
        Bits per spike; NaN without spikes. Source: Neural Latents Benchmark (Pei et al. 2021).
    """
    counts = counts.astype(np.float64)

    def likelihood(expected: np.ndarray) -> float:
        expected = np.maximum(expected.astype(np.float64), 1e-9)
        return float((counts * np.log(expected) - expected).sum())

    spikes = counts.sum()
    if not spikes:
        return float("nan")
    null = np.broadcast_to(counts.mean(0), counts.shape)
    return (likelihood(rates) - likelihood(null)) / spikes / np.log(2)


def scores(true: np.ndarray, predicted: np.ndarray) -> dict:
    """All scores of one session by name."""
    each = r2_per_dimension(true, predicted)
    known = each[np.isfinite(each)]
    return {
        "r2": r2_variance_weighted(true, predicted),
        "r2_uniform": float(known.mean()) if len(known) else float("nan"),
        "r2_flat": r2_flat(true, predicted),
        "r2_per_dimension": [float(r) for r in each],
        "bins": int(np.isfinite(true).any(axis=1).sum()),
    }


def _error_and_spread(true: np.ndarray, predicted: np.ndarray):
    valid = np.isfinite(true)
    count = np.maximum(valid.sum(0), 1)
    clean = np.where(valid, true, 0).astype(np.float64)
    mean = clean.sum(0) / count
    error = np.where(valid, (clean - predicted) ** 2, 0).sum(0)
    spread = np.where(valid, (clean - mean) ** 2, 0).sum(0)
    return error, spread

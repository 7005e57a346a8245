"""Ridge regression on causal count history: the linear decoder every model is set beside."""

from dataclasses import dataclass

import numpy as np

from ndt3_dist.data.continuous import Run, split_last
from ndt3_dist.evaluate.metrics import r2_variance_weighted

PENALTIES = np.logspace(0, 6, 13)


@dataclass(frozen=True)
class Ridge:
    """A fitted decoder.

    Attributes:
        weights: (history * channels, dims).
        mean: Mean feature, (history * channels,).
        offset: Mean covariate, (dims,).
        history: Bins of history, the current one included.
        penalty: The chosen penalty.
    """

    weights: np.ndarray
    mean: np.ndarray
    offset: np.ndarray
    history: int
    penalty: float

    def predict(self, run: Run) -> np.ndarray:
        """Covariates of every bin, (bins, dims); bins before the run count as silent."""
        return (features(run.spikes, self.history) - self.mean) @ self.weights + self.offset


def features(spikes: np.ndarray, history: int) -> np.ndarray:
    """Counts of the current and the last `history` - 1 bins, (bins, history * channels) float32."""
    bins, channels = spikes.shape
    padded = np.concatenate([np.zeros((history - 1, channels), np.float32), spikes])
    windows = np.lib.stride_tricks.sliding_window_view(padded, history, axis=0)
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(bins, history * channels)


def fit_ridge(
    runs: list[Run], history: int, val_fraction: float, penalties: np.ndarray = PENALTIES
) -> Ridge:
    """Fit on some runs; the penalty is chosen on their last part, then all of them are fitted.

    Args:
        runs: What may be fitted.
        history: Bins of history.
        val_fraction: Last part of `runs` that chooses the penalty.
        penalties: Candidates.
    """
    first, last = split_last(runs, val_fraction)
    truth = np.concatenate([r.covariates for r in last])
    held = [(r, features(r.spikes, history)) for r in last]

    def score(candidate: Ridge) -> float:
        predicted = [(f - candidate.mean) @ candidate.weights + candidate.offset for _, f in held]
        return r2_variance_weighted(truth, np.concatenate(predicted))

    best = max(_solve(first, history, penalties), key=score)
    return next(iter(_solve(runs, history, np.array([best.penalty]))))


def _solve(runs: list[Run], history: int, penalties: np.ndarray):
    """Ridge fits of one data set at several penalties, by one eigendecomposition."""
    x = np.concatenate([features(r.spikes, history) for r in runs])
    y = np.concatenate([r.covariates for r in runs]).astype(np.float64)
    keep = np.isfinite(y).all(axis=1)
    x, y = x[keep], y[keep]
    mean, offset = x.mean(0, dtype=np.float64), y.mean(0)
    x = x - mean.astype(np.float32)
    values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    target = vectors.T @ (x.T @ (y - offset))
    for penalty in penalties:
        weights = vectors @ (target / (np.maximum(values, 0) + penalty)[:, None])
        yield Ridge(weights, mean, offset, history, float(penalty))

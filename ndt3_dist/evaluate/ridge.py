"""Ridge regression with lags, in closed form: the linear decoder every model is set beside.

For any number of targets, whose penalty and history are chosen on data that is held back.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ndt3_dist.data.continuous import Piece
from ndt3_dist.evaluate.penalties import Candidate, choose

PENALTIES: list[float] = np.logspace(0.5, 5.5, 11).tolist()
HISTORIES = (5, 10, 15, 25)
"""Bins of history of which a ridge may choose."""
FOLDS = 5
"""Contiguous parts that are held back in turn to choose history and penalty."""


@dataclass(frozen=True)
class Linear:
    """A fitted map from features to targets.

    Attributes:
        weights: (features, targets).
        mean: Mean feature, (features,).
        offset: Mean target, (targets,).
        penalty: Of all targets, or of each.
    """

    weights: np.ndarray
    mean: np.ndarray
    offset: np.ndarray
    penalty: np.ndarray | float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Targets of features (rows, features), (rows, targets)."""
        return (x - self.mean) @ self.weights + self.offset


def solutions(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Iterator[Linear]:
    """Ridge fits of one data set at several penalties.

    Args:
        x: Features, (rows, features).
        y: Targets, (rows, targets), all finite.
        penalties: Of the squared weights.
    """
    mean, offset = x.mean(0, dtype=np.float64), y.mean(0)
    x, y = x - mean.astype(x.dtype), y - offset
    if len(x) >= x.shape[1]:
        values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
        target = vectors.T @ (x.T @ y)
    else:  # as good, and smaller: weights are sums of rows
        values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
        target, vectors = vectors.T @ y, x.T @ vectors
    for penalty in penalties:
        weights = vectors @ (target / (np.maximum(values, 0) + penalty)[:, None])
        yield Linear(weights, mean, offset, float(penalty))


def fit_linear(
    x: np.ndarray,
    y: np.ndarray,
    fit: np.ndarray,
    score: np.ndarray,
    by: Callable[[np.ndarray, np.ndarray], np.ndarray | float],
    penalties: Sequence[float] = PENALTIES,
) -> Linear:
    """Choose penalties on some rows, then fit all of both.

    Args:
        x, y: (rows, features), (rows, targets); rows with a NaN among their targets are left out.
        fit, score: Row numbers (`evaluate.splits`).
        by: (true, predicted) -> one number for all targets, or one for each; the higher the better.
        penalties: Candidates.
    """
    unknown = np.flatnonzero(~np.isfinite(y).all(axis=1))
    fit, score = np.setdiff1d(fit, unknown), np.setdiff1d(score, unknown)
    found = [by(y[score], m.predict(x[score])) for m in solutions(x[fit], y[fit], penalties)]
    best = np.asarray(np.argmax(np.array(found), axis=0))  # () or (targets,)
    rows = np.union1d(fit, score)
    fits = list(solutions(x[rows], y[rows], [penalties[i] for i in np.unique(best)]))
    if best.ndim == 0:
        return fits[0]
    where = np.searchsorted(np.unique(best), best)
    weights = np.stack([fits[w].weights[:, t] for t, w in enumerate(where)], axis=1)
    return Linear(weights, fits[0].mean, fits[0].offset, np.asarray(penalties)[best])


def lagged(values: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """Each row beside earlier ones (positive lags) or later ones, zeros beyond the ends.

    Args:
        values: (rows, dims).
        lags: Rows back.
    Returns:
        (rows, lags * dims) float32, lag by lag.
    """
    rows, dims = values.shape
    found = np.zeros((rows, len(lags), dims), np.float32)
    for i, lag in enumerate(lags):
        if lag >= 0:
            found[lag:, i] = values[: max(rows - lag, 0)]
        else:
            found[:lag, i] = values[-lag:]
    return found.reshape(rows, len(lags) * dims)


@dataclass(frozen=True)
class Ridge:
    """A decoder of covariates from causal count history.

    Attributes:
        linear: From counts of the current and earlier bins.
        history: Bins of history, the current one included.
        r2_folds: R2 of the bins that were held back in turn.
    """

    linear: Linear
    history: int
    r2_folds: float

    @property
    def penalty(self) -> float:
        return float(self.linear.penalty)

    def predict(self, piece: Piece) -> np.ndarray:
        """Covariates of every bin, (bins, dims); bins before the piece count as silent."""
        return self.linear.predict(features(piece.spikes, self.history))


def features(spikes: np.ndarray, history: int) -> np.ndarray:
    """Counts, the oldest of `history` bins first, (bins, history * channels)."""
    return lagged(spikes, range(history - 1, -1, -1))


def fit_ridge(
    pieces: list[Piece],
    history: int | Sequence[int],
    number: int = FOLDS,
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Fit on some pieces; what is to be chosen is chosen by contiguous folds of their bins.

    Args:
        pieces: What may be fitted.
        history: Bins of history, or candidates of which the best is chosen.
        number: Folds.
        penalties: Candidates.
    """
    lengths = sorted({history} if isinstance(history, int) else {*history})
    x, y = together(pieces, lengths[-1])
    channels = pieces[0].spikes.shape[1]
    ways = [(bins, penalty) for bins in lengths for penalty in penalties]
    candidates = [
        Candidate((lengths[-1] - bins) * channels, np.full(bins * channels, penalty))
        for bins, penalty in ways
    ]
    best, r2, weights, offset = choose(x, y, candidates, number, lengths[-1])
    bins, penalty = ways[best]
    return Ridge(Linear(weights, np.zeros(len(weights)), offset, penalty), bins, r2)


def together(pieces: list[Piece], history: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and covariates of all bins that have all covariates."""
    x = np.concatenate([features(r.spikes, history) for r in pieces])
    y = np.concatenate([r.covariates for r in pieces]).astype(np.float64)
    kept = np.isfinite(y).all(axis=1)
    return x[kept], y[kept]

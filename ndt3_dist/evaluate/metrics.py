"""Scores as sums that add up: over windows, over ranks, over a whole split, in any order.

A metric is a class without arguments: `sums` of some rows of one session, `scores` of what they add
up to, and `pooled` scores of several sessions as one. A model names its own by import path
(`model.contract.Target.metric`); validation while training and evaluation use the same ones.

Source: FALCON's evaluator for the headline R2 (variance-weighted per session); the Neural Latents
Benchmark (Pei et al. 2021) for bits per spike.
"""

import math
from typing import Protocol

import numpy as np

LEAST_RATE = 1e-9
"""Expected count that a prediction of none is taken for."""
NO_SPREAD = 1e-12
"""A dimension whose squared deviations are less than this share of its squares is constant."""


class Metric(Protocol):
    """Additive over rows of one session."""

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Of some rows, as one float64 vector whose length their session decides."""
        ...

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        """Scores by name, the headline first; NaN where nothing can be said."""
        ...

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        """Scores of several sessions' sums as one, by other names; mostly none."""
        ...


class R2:
    """1 - squared error / squared deviation, over valid values.

    Of truth (rows, dims), NaN where not valid, and predictions (rows, dims). `r2`: all errors over
    all deviations from each dimension's own mean (variance-weighted). `r2_uniform`: mean over
    dimensions. `r2_flat`: all values as one vector, deviations from their common mean, which is
    NDT3's own. Constant dimensions have no part in the first two.
    """

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Number, sum, sum of squares, sum of squared errors of each dimension, (4 x dims,)."""
        valid = np.isfinite(true)
        value = np.where(valid, true, 0).astype(np.float64)
        error = np.where(valid, value - predicted, 0)
        return np.concatenate([valid.sum(0), value.sum(0), (value**2).sum(0), (error**2).sum(0)])

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        number, total, squares, error = sums.reshape(4, -1)
        spread = squares - total**2 / np.maximum(number, 1)
        varies = spread > NO_SPREAD * squares
        if not varies.any():
            return {"r2": math.nan, "r2_uniform": math.nan}
        each = 1 - error[varies] / spread[varies]
        whole = 1 - error[varies].sum() / spread[varies].sum()
        return {"r2": float(whole), "r2_uniform": float(each.mean())}

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        flat = [sums.reshape(4, -1).sum(1, keepdims=True) for sums in every]
        return {"r2_flat": self.scores(np.sum(flat, axis=0).ravel())["r2"]}

    def per_dimension(self, sums: np.ndarray) -> list[float]:
        """R2 of each dimension; NaN where it is constant or has no valid value."""
        columns = sums.reshape(4, -1).T
        return [self.scores(column.copy())["r2"] for column in columns]


class BitsPerSpike:
    """Poisson log-likelihood of counts above that of each channel's mean rate, per spike in bits.

    Of counts (bins, channels) and expected counts (bins, channels). The mean rates are those of the
    scored bins themselves, as the benchmark has it: a model that was fitted elsewhere may score
    below zero.
    """

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Log-likelihood, bins, and spikes of each channel, (2 + channels,)."""
        counts = true.astype(np.float64)
        expected = np.maximum(predicted.astype(np.float64), LEAST_RATE)
        held = (counts * np.log(expected) - expected).sum()
        return np.concatenate([[held, len(counts)], counts.sum(0)])

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        held, bins, counts = sums[0], sums[1], sums[2:]
        spikes = counts.sum()
        if not spikes:
            return {"bits_per_spike": math.nan}
        null = (counts * np.log(np.maximum(counts, 1) / bins) - counts).sum()
        return {"bits_per_spike": float((held - null) / spikes / np.log(2))}

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        return {}


class BitsPerHiddenSpike:
    """`BitsPerSpike` of those counts that were predicted: expected counts are NaN elsewhere."""

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Log-likelihood, then bins and spikes of each channel, (1 + 2 x channels,)."""
        scored = np.isfinite(predicted)
        counts = np.where(scored, true, 0).astype(np.float64)
        expected = np.where(scored, np.maximum(predicted, LEAST_RATE), 0).astype(np.float64)
        held = (counts * np.log(np.where(scored, expected, 1)) - expected).sum()
        return np.concatenate([[held], scored.sum(0), counts.sum(0)])

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        held, (bins, counts) = sums[0], sums[1:].reshape(2, -1)
        spikes = counts.sum()
        if not spikes:
            return {"bits_per_spike": math.nan}
        rate = np.maximum(counts, 1) / np.maximum(bins, 1)
        null = (counts * np.log(rate) - counts).sum()
        return {"bits_per_spike": float((held - null) / spikes / np.log(2))}

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        return {}


class PearsonR:
    """Mean over dimensions of the correlation of truth and prediction, (rows, dims) both.

    Rows where the truth is NaN are left out of a dimension; constant dimensions have no part.
    """

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Number, sums, sums of squares of both, sum of products of each dimension."""
        valid = np.isfinite(true)
        x = np.where(valid, true, 0).astype(np.float64)
        y = np.where(valid, predicted, 0).astype(np.float64)
        rows = valid, x, y, x * x, y * y, x * y
        return np.concatenate([row.sum(0) for row in rows]).astype(np.float64)

    def per_dimension(self, sums: np.ndarray) -> np.ndarray:
        """Correlation of each dimension, (dims,); NaN where one of both is constant."""
        number, x, y, xx, yy, xy = sums.reshape(6, -1)
        number = np.maximum(number, 1)
        spread = np.maximum(xx - x * x / number, 0), np.maximum(yy - y * y / number, 0)
        varies = (spread[0] > NO_SPREAD * xx) & (spread[1] > NO_SPREAD * yy)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (xy - x * y / number) / np.sqrt(spread[0] * spread[1])
        return np.where(varies, r, np.nan)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        r = self.per_dimension(sums)
        return {"pearson_r": float(np.nanmean(r)) if np.isfinite(r).any() else math.nan}

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        return {}


class Accuracy:
    """Share of rows whose true class is the highest score, among the five highest, and by class.

    Of classes (rows,) or (rows, 1), negative or NaN where none, and scores (rows, classes).
    """

    TOP = 5

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Hits among the first `TOP`, then rows and hits of each class, (1 + 2 x classes,)."""
        classes = predicted.shape[1]
        label = np.where(np.isfinite(true), true, -1).reshape(-1).astype(np.int64)
        kept = label >= 0
        label, scores = label[kept], predicted[kept]
        own = scores[np.arange(len(label)), label]
        rank = (scores > own[:, None]).sum(axis=1)
        rows = np.bincount(label, minlength=classes)
        hits = np.bincount(label[rank == 0], minlength=classes)
        return np.concatenate([[(rank < self.TOP).sum()], rows, hits]).astype(np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        rows, hits = sums[1:].reshape(2, -1)
        total, seen = rows.sum(), rows > 0
        if not total:
            return {"accuracy": math.nan, "top5_accuracy": math.nan, "balanced_accuracy": math.nan}
        return {
            "accuracy": float(hits.sum() / total),
            "top5_accuracy": float(sums[0] / total),
            "balanced_accuracy": float((hits[seen] / rows[seen]).mean()),
        }

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        return {}


def r2_scores(true: np.ndarray, predicted: np.ndarray) -> dict:
    """R2 of one session in its forms, of each dimension, and the bins that are scored.

    Args:
        true: (bins, dims), NaN where not valid.
        predicted: (bins, dims).
    """
    metric, valid = R2(), np.isfinite(true)
    number = np.maximum(valid.sum(0), 1)
    # About their means, so that large values far from zero keep their digits.
    mean = np.where(valid, true, 0).astype(np.float64).sum(0) / number
    sums = metric.sums(true - mean, predicted - mean)
    common = float(np.where(valid, true, 0).sum() / max(valid.sum(), 1))
    flat = metric.pooled([metric.sums(true - common, predicted - common)])
    return {
        **metric.scores(sums),
        **flat,
        "r2_per_dimension": metric.per_dimension(sums),
        "bins": int(valid.any(axis=1).sum()),
    }


def r2_variance_weighted(true: np.ndarray, predicted: np.ndarray) -> float:
    """`r2` of `r2_scores`."""
    return r2_scores(true, predicted)["r2"]


def bits_per_spike(counts: np.ndarray, rates: np.ndarray) -> float:
    """Of counts and expected counts, (bins, channels) both."""
    metric = BitsPerSpike()
    return metric.scores(metric.sums(counts, rates))["bits_per_spike"]


def mean(scores: list[float]) -> float:
    """Mean of those that are numbers."""
    values = [v for v in scores if math.isfinite(v)]
    return math.fsum(values) / len(values) if values else math.nan

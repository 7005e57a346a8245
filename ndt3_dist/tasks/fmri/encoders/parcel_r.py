"""Pearson r of parcels as sums that add up over windows (`evaluate.metrics`)."""

import numpy as np


class ParcelR:
    """`r`: mean over columns of the r over all rows of a session; `pooled` says nothing more.

    Columns of which one side does not vary, as those of a subject who lacks the clip, are left out.
    """

    def sums(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Number, sums, squares and products of each column, (6 x columns,)."""
        valid = np.isfinite(true)
        t = np.where(valid, true, 0).astype(np.float64)
        p = np.where(valid, predicted, 0).astype(np.float64)
        each = valid, t, p, t**2, p**2, t * p
        return np.concatenate([part.sum(0) for part in each]).astype(np.float64)

    def scores(self, sums: np.ndarray) -> dict[str, float]:
        n, t, p, tt, pp, tp = sums.reshape(6, -1)
        n = np.maximum(n, 1)
        spread = (tt - t**2 / n) * (pp - p**2 / n)
        known = (tt - t**2 / n > 1e-9 * tt) & (pp - p**2 / n > 1e-9 * pp)
        if not known.any():
            return {"r": float("nan")}
        r = (tp - t * p / n)[known] / np.sqrt(spread[known])
        return {"r": float(r.mean())}

    def pooled(self, every: list[np.ndarray]) -> dict[str, float]:
        return {}

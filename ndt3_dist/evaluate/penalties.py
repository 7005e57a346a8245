"""Penalties of a linear fit, chosen by contiguous folds: each part of the rows is held back once.

The sums of squares of all rows are taken once; a fold's are what its own rows leave of them, and
each candidate is then one small system of equations. Candidates may leave out leading features and
may penalise features differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.evaluate.splits import folds


@dataclass(frozen=True)
class Candidate:
    """A way to fit.

    Attributes:
        first: Features before this one are left out.
        penalties: Of the squared weights of the others, (features - first,).
    """

    first: int
    penalties: np.ndarray


@dataclass(frozen=True)
class Sums:
    """Of some rows: number, features (features,), targets (targets,), and their products."""

    rows: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> "Sums":
        """Products are taken in float32, as features come."""
        return cls(len(x), x.sum(0, dtype=np.float64), y.sum(0), x.T @ x, x.T @ y.astype(x.dtype))

    def without(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, k) - getattr(other, k) for k in vars(self)))

    def solve(self, candidates: Sequence[Candidate], dtype: type = np.float64) -> list:
        """Weights (features - first, targets) and offset (targets,) of each candidate."""
        mean, about = self.x / self.rows, self.y / self.rows
        gram = (self.xx - self.rows * np.outer(mean, mean)).astype(dtype)
        target = (self.xy - self.rows * np.outer(mean, about)).astype(dtype)
        found = []
        for candidate in candidates:
            first = candidate.first
            system = gram[first:, first:].copy()
            system.flat[:: len(system) + 1] += candidate.penalties.astype(dtype)
            factor = torch.linalg.cholesky(torch.from_numpy(system))
            right = torch.from_numpy(np.ascontiguousarray(target[first:]))
            weights = torch.cholesky_solve(right, factor).numpy()
            found.append((weights, about - mean[first:] @ weights))
        return found


def choose(
    x: np.ndarray, y: np.ndarray, candidates: Sequence[Candidate], number: int, gap: int
) -> tuple[int, float, np.ndarray, np.ndarray]:
    """The candidate with the least squared error over all held-back rows, fitted to all rows.

    Args:
        x: (rows, features) float32.
        y: (rows, targets), all finite.
        candidates: Of equals the first is taken.
        number: Folds.
        gap: Rows on either side of a held-back part that are not fitted.
    Returns:
        Which one; its variance-weighted R2 over held-back rows; weights; offset.
    """
    # Products of float32 keep few digits of what varies about a large mean.
    mean, about = x.mean(0, dtype=np.float64), y.mean(0)
    x, y = x - mean.astype(x.dtype), y - about
    with log.waiting(f"products of {x.shape[1]} features"):
        whole, errors = Sums.of(x, y), np.zeros(len(candidates))
    for fit, score in log.progress(folds(len(x), number, gap), "closed form, folds", number):
        left_out = np.setdiff1d(np.arange(len(x)), fit, assume_unique=True)
        some = whole.without(Sums.of(x[left_out], y[left_out]))
        for i, (weights, offset) in enumerate(some.solve(candidates, np.float32)):
            predicted = x[score, candidates[i].first :] @ weights + offset
            errors[i] += ((y[score] - predicted) ** 2).sum()
    best = int(np.argmin(errors))
    ((weights, offset),) = whole.solve([candidates[best]])
    offset = about + offset - mean.astype(x.dtype)[candidates[best].first :] @ weights
    spread = (y**2).sum()
    return best, float(1 - errors[best] / spread) if spread else np.nan, weights, offset

"""A Wiener cascade: lagged counts through a ridge, then each covariate through a polynomial of its
own. Between a ridge and a network: it is linear in time and bends what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial

from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.metrics import r2_variance_weighted
from ndt3_dist.evaluate.ridge import HISTORIES, Ridge, fit_ridge
from ndt3_dist.tune.fit_data import FitData

ORDERS = (1, 2, 3, 4, 5)
"""Of the polynomial of a covariate; 1 leaves the ridge as it is."""
BINS_PER_LAG = 5
"""A filter of so many bins needs so many times as many to be chosen by folds."""


@dataclass(frozen=True)
class Cascade:
    """A fitted one.

    Attributes:
        ridge: The linear part.
        bends: What each covariate goes through; None = nothing.
        r2_held_back: Of the bins that chose the orders.
    """

    ridge: Ridge
    bends: list[Polynomial | None]
    r2_held_back: float

    @property
    def orders(self) -> list[int]:
        return [1 if bend is None else bend.degree() for bend in self.bends]

    def predict(self, piece: Piece) -> np.ndarray:
        """Covariates of every bin, (bins, dims)."""
        return bent(self.ridge.predict(piece), self.bends)


def bent(linear: np.ndarray, bends: Sequence[Polynomial | None]) -> np.ndarray:
    """Columns through their polynomials, no farther than these were fitted."""
    columns = [
        x if bend is None else bend(x.clip(bend.domain[0], bend.domain[1]))
        for x, bend in zip(linear.T, bends, strict=True)
    ]
    return np.stack(columns, axis=1)


def histories(bins: int) -> list[int]:
    """Bins of history that so many bins can choose from. Raises BadInput where there is none."""
    found = [h for h in HISTORIES if BINS_PER_LAG * h <= bins]
    if not found:
        raise BadInput(f"{bins} bins to fit; a ridge needs at least {BINS_PER_LAG * HISTORIES[0]}")
    return found


def fit_cascade(data: FitData) -> Cascade:
    """Orders are chosen by the part that is held back, history and penalty by folds of the rest;
    then all of it is fitted with these."""
    first = fit_ridge(data.first, histories(sum(map(len, data.first))))
    fitted, held = _out_and_true(first, data.first), _out_and_true(first, data.last)
    bends = [_best(*(part[d] for part in (*fitted, *held))) for d in range(len(fitted[0]))]
    predicted = bent(np.stack(held[0], axis=1), bends)
    r2 = r2_variance_weighted(np.stack(held[1], axis=1), predicted)
    ridge = fit_ridge(data.pieces, first.history, penalties=[first.penalty])
    x, y = _out_and_true(ridge, data.pieces)
    again = [b and _fit(x[d], y[d], b.degree()) for d, b in enumerate(bends)]
    return Cascade(ridge, again, r2)


def _out_and_true(ridge: Ridge, pieces: list[Piece]) -> tuple[list, list]:
    """What a ridge gives and what it should, a row a covariate."""
    out = np.concatenate([ridge.predict(p) for p in pieces])
    true = np.concatenate([p.covariates for p in pieces]).astype(np.float64)
    return list(out.T), list(true.T)


def _fit(x: np.ndarray, y: np.ndarray, order: int) -> Polynomial:
    known = np.isfinite(y)
    return Polynomial.fit(x[known], y[known], order)


def _best(x: np.ndarray, y: np.ndarray, held_x: np.ndarray, held_y: np.ndarray):
    """The polynomial with the least error where it was not fitted; None = as it is."""
    bends = [None, *(_fit(x, y, order) for order in ORDERS[1:])]
    errors = [np.nansum((bent(held_x[:, None], [b])[:, 0] - held_y) ** 2) for b in bends]
    return bends[int(np.argmin(errors))]

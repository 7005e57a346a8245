"""Who is fitted and who is scored: rows divided so that neighbours do not tell on each other.

All functions take a number of rows (or the group of each) and give row numbers, ascending. A gap is
purged from the fitted side: rows so near a scored one in time are used by neither. Splits that a
corpus has by name are those of its manifest (`data.continuous`).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput

Split = tuple[np.ndarray, np.ndarray]
"""Rows to fit, rows to score."""


def last_part(rows: int, fraction: float, gap: int = 0) -> Split:
    """The last share of the rows to score, those before it but for `gap` to fit.

    Raises:
        BadInput: A side is left empty.
    """
    cut = round(rows * (1 - fraction))
    return _checked(np.arange(max(cut - gap, 0)), np.arange(cut, rows), rows)


def folds(rows: int, number: int, gap: int = 0) -> Iterator[Split]:
    """Contiguous folds, each scored once; `gap` rows on either side of it are not fitted."""
    if not 2 <= number <= rows:
        raise BadInput(f"{number} folds of {rows} rows; expected 2 to as many as there are rows")
    borders = np.linspace(0, rows, number + 1).round().astype(int)
    for start, stop in pairwise(borders):
        fit = np.r_[np.arange(max(start - gap, 0)), np.arange(min(stop + gap, rows), rows)]
        yield _checked(fit, np.arange(start, stop), rows)


def grouped(groups: Sequence, number: int, seed: int = 0) -> Iterator[Split]:
    """Folds of whole groups (sessions, trials, words): none is on both sides.

    Args:
        groups: Of each row.
        number: Folds.
        seed: Of the order in which groups are dealt, the largest first, each to the smallest fold.
    """
    names, of_row, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if not 2 <= number <= len(names):
        raise BadInput(f"{number} folds of {len(names)} groups; expected 2 to as many as groups")
    order = generator("grouped", seed, number).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold, held = np.empty(len(names), int), np.zeros(number)
    for group in order:
        fold[group] = held.argmin()
        held[fold[group]] += sizes[group]
    for n in range(number):
        scored = fold[of_row] == n
        yield np.flatnonzero(~scored), np.flatnonzero(scored)


def by_name(names: Sequence[str], fit: Sequence[str], score: Sequence[str]) -> Split:
    """Rows by the name of the part that each belongs to.

    Raises:
        BadInput: A part is on both sides, or no row has it.
    """
    known = {*names}
    if both := {*fit} & {*score}:
        raise BadInput(f"{', '.join(sorted(both))}: to fit and to score")
    if lost := [n for n in (*fit, *score) if n not in known]:
        raise BadInput(f"no part {', '.join(lost)}; there are: {', '.join(sorted(known))}")
    array = np.asarray(names)
    return np.flatnonzero(np.isin(array, list(fit))), np.flatnonzero(np.isin(array, list(score)))


def _checked(fit: np.ndarray, score: np.ndarray, rows: int) -> Split:
    if not len(fit) or not len(score):
        raise BadInput(
            f"{rows} rows leave {len(fit)} to fit and {len(score)} to score; choose another share, "
            "fewer folds or a smaller gap"
        )
    return fit, score

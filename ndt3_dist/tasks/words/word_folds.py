"""Training, validation and test words of each fold, with a purge gap between them.

Two windows at one lag overlap where their onsets are nearer than a window is wide: no such pair is
ever in two parts. What is in the way leaves training first, then validation; test words all stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput

SEQUENTIAL, ZERO_SHOT = "sequential_folds", "zero_shot_folds"
VALIDATION = 0.25
"""Of what is not test."""


@dataclass(frozen=True)
class Fold:
    """Rows of the words, ascending.

    Attributes:
        number: From 1.
        train, val, test: Rows.
        purged: Words that are in none of them.
    """

    number: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    purged: int


def word_folds(
    onsets: np.ndarray,
    words: Sequence[str],
    number: int,
    kind: str = SEQUENTIAL,
    gap_s: float = 0.625,
    seed: int = 42,
) -> list[Fold]:
    """All folds.

    Args:
        onsets: Of each word in s, (words,).
        words: Their texts. Zero-shot folds deal whole words, in the order of their text and of a
            draw from `seed`: they are the same in every process.
        number: Folds.
        kind: sequential_folds: contiguous fifths in order of time, the last quarter of the rest
            validates. zero_shot_folds: no test or validation word is a training word.
        gap_s: Onsets of two parts are at least so far apart.
    Raises:
        BadInput: There are too few words, or a part is left empty.
    """
    rows = len(onsets)
    if kind not in (SEQUENTIAL, ZERO_SHOT):
        raise BadInput(f"fold_type {kind!r}; expected {SEQUENTIAL} or {ZERO_SHOT}")
    if kind == SEQUENTIAL:
        order = np.argsort(onsets, kind="stable")
        parts = np.array_split(order, number) if rows >= number else []
        group = np.arange(rows)
    else:
        names, group = np.unique(np.asarray(words, dtype=str), return_inverse=True)
        drawn = generator("zero_shot", seed).permutation(len(names))
        parts = np.array_split(drawn, number) if len(names) >= number else []
        order = drawn
    if not parts or number < 2:
        raise BadInput(f"{number} folds of {rows} words; expected 2 to as many as there are words")
    found = []
    for n, part in enumerate(parts, 1):
        rest = order[~np.isin(order, part)]
        held = rest[len(rest) - round(VALIDATION * len(rest)) :]
        test, val = (np.isin(group, p) for p in (part, held))
        train = ~test & ~val
        val &= apart(onsets, test, gap_s)
        train &= apart(onsets, test | val, gap_s)
        rows_of = [np.flatnonzero(mask) for mask in (train, val, test)]
        if min(map(len, rows_of)) < 2:
            raise BadInput(
                f"fold {n} of {number} has {len(rows_of[0])} training, {len(rows_of[1])} "
                f"validation and {len(rows_of[2])} test words beyond a gap of {gap_s:g} s; choose "
                "fewer folds, a narrower window or sequential_folds"
            )
        found.append(Fold(n, *rows_of, purged=rows - sum(map(len, rows_of))))
    return found


def apart(onsets: np.ndarray, others: np.ndarray, gap_s: float) -> np.ndarray:
    """Which words begin at least `gap_s` from each of some others, (words,) bool.

    Args:
        others: Which those are, (words,) bool; they are near themselves.
    """
    near = np.sort(onsets[others])
    if not len(near):
        return np.ones(len(onsets), bool)
    after = np.searchsorted(near, onsets)
    left = onsets - near[np.clip(after - 1, 0, None)]
    right = near[np.clip(after, None, len(near) - 1)] - onsets
    left[after == 0], right[after == len(near)] = np.inf, np.inf
    return np.minimum(left, right) >= gap_s - 1e-9


def lags_of(low: int, high: int, step: int, lag: int | None = None) -> list[int]:
    """Lags in ms: from `low` on in steps, `high` included where a step falls on it.

    Raises:
        BadInput: There is none.
    """
    if lag is not None:
        return [lag]
    if step < 1 or high < low:
        raise BadInput(f"lags from {low} to {high} ms in steps of {step}; expected min <= max, 1+")
    return list(range(low, high + 1, step))

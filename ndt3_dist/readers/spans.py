"""Stretches of time as arrays (spans, 2) of [start, stop) in s, ascending and apart."""

import numpy as np

from ndt3_dist.readers.clocks import slack

TOUCH_S = 1e-3
"""Stretches that are no further apart are one: trials often end a clock tick before the next."""


def merge(spans: np.ndarray, error_s: float = 0.0) -> np.ndarray:
    """Any stretches as ascending ones that are apart; empty ones are left out.

    Args:
        spans: (spans, 2).
        error_s: What the distance of two edges may be off by (`clocks.stored_error`).
    """
    spans = np.asarray(spans, np.float64).reshape(-1, 2)
    spans = spans[spans[:, 1] > spans[:, 0]]
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    reached = np.maximum.accumulate(spans[:, 1])
    touch = TOUCH_S + slack(error_s, TOUCH_S)
    begins = np.r_[True, spans[1:, 0] > reached[:-1] + touch]
    ends = np.r_[np.flatnonzero(begins)[1:] - 1, len(spans) - 1]
    return np.column_stack([spans[begins, 0], reached[ends]])


def intersect(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """What lies in both; None is all time. Borders inside either stay borders."""
    if one is None or other is None:
        return other if one is None else one
    found = []
    for start, stop in one:
        near = other[(other[:, 1] > start) & (other[:, 0] < stop)]
        found.append(np.clip(near, start, stop))
    return np.concatenate([*found, np.zeros((0, 2))])


def shared(each: list[np.ndarray]) -> np.ndarray:
    """What lies in all of these, each of them ascending and apart, (spans, 2)."""
    starts = np.sort(np.concatenate([spans[:, 0] for spans in each]))
    stops = np.sort(np.concatenate([spans[:, 1] for spans in each]))
    begun = np.searchsorted(starts, starts, side="right")
    at = np.unique(starts[begun - np.searchsorted(stops, starts, side="right") == len(each)])
    return np.column_stack([at, stops[np.searchsorted(stops, at, side="right")]])


def contains(spans: np.ndarray, times: np.ndarray, slack_s: float) -> np.ndarray:
    """Which times lie in a span, (times,) bool; `slack_s` forgives what was lost in storing."""
    if not len(spans):
        return np.zeros(len(times), bool)
    after = np.searchsorted(spans[:, 0] - slack_s, times, side="right") - 1
    return (after >= 0) & (times < spans[np.clip(after, 0, None), 1] - slack_s)


def runs(valid: np.ndarray, times: np.ndarray, period: float) -> np.ndarray:
    """Stretches in which samples are valid; a missing sample ends one.

    Args:
        valid: (samples,) bool.
        times: Start of each sample in s, (samples,), ascending.
        period: Of the samples in s.
    """
    at = np.flatnonzero(valid)
    if not len(at):
        return np.zeros((0, 2))
    apart = (np.diff(at) > 1) | (np.diff(times[at]) > 1.5 * period)
    first = at[np.r_[True, apart]]
    last = at[np.r_[apart, True]]
    return np.column_stack([times[first], times[last] + period])

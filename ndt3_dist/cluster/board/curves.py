"""Curves of several runs in one chart, made for the pixels that it has: no point is lost.

Of each stretch the least and the greatest value are drawn, so that one leap among a million steps
is seen; the bold line is a mean of what is beside each place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ndt3_dist.pages.chart import PLACES, POINTS, Series, as_chart
from ndt3_dist.pages.columns import AXES
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.style import COLOURS
from ndt3_dist.pages.words import Name, capital, told, words

DASHES = 4
"""Kinds of line in each colour."""
MOST_RUNS = COLOURS * DASHES
MOST_CHARTS = 24
BESIDES = {"position", "samples", "epochs", "tokens", "step_s", "wait_s", "tflops", "hfu", "val_s"}
"""Keys that are drawn on request alone."""
FROM_ZERO = {"lr", "mfu", "tokens_per_s", "waiting_for_data_share", "memory_gb"}
SHARES = {"mfu", "hfu", "waiting_for_data_share"}
"""Keys that are shown in percent."""
FIRST = ("loss", "val_", "loss_", "tokens_per_s", "lr", "grad_norm")
"""Keys that begin so come first, in this order."""


@dataclass(frozen=True)
class View:
    """How curves are drawn.

    Attributes:
        axis: One of `columns.AXES`.
        log: Equal factors equally long.
        smooth: The mean is of this share of all steps, 0 to 1; 0 = no mean.
        left, right: Ends of the axis; NaN = those of the runs.
        words: Keys with one of them are drawn, "" = the usual ones.
    """

    axis: str = "step"
    log: bool = False
    smooth: float = 0.02
    left: float = math.nan
    right: float = math.nan
    words: str = ""


def shown_keys(runs: Sequence[FollowedRun], wanted: str) -> list[str]:
    """Keys of which there are charts, in order."""
    known = dict.fromkeys(key for run in runs for key in run.columns.names())
    asked = wanted.lower().split()
    if asked:
        known = [k for k in known if any(w in k.lower() or w in words(k).lower() for w in asked)]
    else:
        known = [k for k in known if k not in BESIDES and "/" not in k]
    order = {k: next((i for i, f in enumerate(FIRST) if k.startswith(f)), 9) for k in known}
    return sorted(known, key=lambda key: (key != "loss", order[key]))


def charts(runs: Sequence[FollowedRun], view: View) -> tuple[list[str], int]:
    """A chart of each key, as HTML with its ends, and how many there are besides."""
    keys = shown_keys(runs, view.words)
    ends = across(runs, view)
    found = []
    for key in keys[:MOST_CHARTS]:
        drawing = chart(runs, key, view, ends)
        if drawing:
            found.append(f'<div class="zoom" data-ends="{ends[0]!r} {ends[1]!r}">{drawing}</div>')
    return found, max(0, len(keys) - MOST_CHARTS)


def across(runs: Sequence[FollowedRun], view: View) -> tuple[float, float]:
    """Both ends of the axis of x."""
    places = [run.columns.along(view.axis) for run in runs if run.columns.rows]
    left = min((float(x[0]) for x in places), default=0.0)
    right = max((float(x[-1]) for x in places), default=1.0)
    if math.isfinite(view.left) and math.isfinite(view.right) and view.left < view.right:
        left, right = max(left, view.left), min(right, view.right)
    return (left, right) if left < right else (left, left + 1.0)


def chart(runs: Sequence[FollowedRun], key: str, view: View, ends: tuple[float, float]) -> str:
    """One key of all runs; "" where none has it."""
    series = []
    for number, run in enumerate(runs):
        if key in run.columns.names():
            x, y = run.columns.along(view.axis), run.columns.of(key)
            y = 100 * y if key in SHARES else y
            series += lines_of(x, y, ends, view.smooth, number)
    series.sort(key=lambda s: "faint" not in s.drawn)  # means lie above all that is faint
    return as_chart(
        caption_of(key),
        series,
        AXES[view.axis],
        unit="%" if key in SHARES else "GB" if key.endswith("_gb") else "",
        log=view.log,
        from_zero=key in FROM_ZERO and not view.log,
        across=ends,
    )


def caption_of(key: str) -> str:
    """A key as a heading."""
    if "/" in key:
        return Name(key)
    if key.startswith("val_"):
        return f"Validation {words(key.removeprefix('val_'))}"
    return "MFU" if key == "mfu" else capital(told(key, None)[0])


def lines_of(
    x: np.ndarray, y: np.ndarray, ends: tuple[float, float], smooth: float, number: int
) -> list[Series]:
    """A run's curve between two ends: all of it faint, its mean bold; few values as they are."""
    known = np.isfinite(y)
    x, y = x[known], y[known].astype(float)
    colour, dash = 1 + number % COLOURS, f"d{number // COLOURS}"
    low, high = np.searchsorted(x, ends[0], "left"), np.searchsorted(x, ends[1], "right")
    if high <= low:
        return []
    if len(y) < 50:  # as validations are
        few = x[low:high], y[low:high]
        return [Series(*few, "", colour, f"line {dash}"), Series(*few, "", colour, "dot")]
    raw = bucketed(x[low:high], y[low:high], ends, POINTS)
    if not smooth:
        return [Series(*raw, "", colour, f"line {dash}")]
    places = np.unique(np.linspace(low, high - 1, min(PLACES, high - low)).astype(int))
    mean = means(y, places, max(1, round(smooth * len(y) / 2)))
    return [Series(*raw, "", colour, "faint"), Series(x[places], mean, "", colour, f"line {dash}")]


def bucketed(
    x: np.ndarray, y: np.ndarray, ends: tuple[float, float], buckets: int
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each of so many equal stretches of x, where it begins.

    Args:
        x: (points,), never falling, within `ends`.
        y: (points,), finite.
    """
    if len(x) <= 2 * buckets:
        return x, y
    edges = ends[0] + (ends[1] - ends[0]) * np.arange(buckets) / buckets
    starts = np.unique(np.searchsorted(x, edges))
    starts = starts[starts < len(x)]
    least, most = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    return np.repeat(x[starts], 2), np.stack([least, most], 1).reshape(-1)


def means(y: np.ndarray, places: np.ndarray, half: int) -> np.ndarray:
    """Means of what is beside some places; towards an end of as many on both sides."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    room = np.minimum(places, len(y) - 1 - places)
    half_at = np.maximum(np.minimum(room, half), min(half, 2) if len(y) > 4 else 0)
    low, high = np.maximum(places - half_at, 0), np.minimum(places + half_at + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)

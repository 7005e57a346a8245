"""A curve as one line of a terminal."""

import numpy as np

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
PLAIN = "_.-=+*#@"
"""For terminals that have no such characters."""


def sparkline(values: np.ndarray, width: int, levels: str = BLOCKS) -> str:
    """Means of so many stretches, from the least (the first level) to the greatest.

    Args:
        values: (steps,); not finite = none, drawn as a gap where a whole stretch has none.
    """
    if not np.isfinite(values).any() or width < 1:
        return ""
    parts = np.array_split(values.astype(float), min(width, len(values)))
    known = [part[np.isfinite(part)] for part in parts]
    means = np.array([part.mean() if len(part) else np.nan for part in known])
    low, high = np.nanmin(means), np.nanmax(means)
    place = (means - low) / (high - low) if high > low else np.where(np.isfinite(means), 0.5, means)
    last = len(levels) - 1
    return "".join(levels[round(float(p) * last)] if np.isfinite(p) else " " for p in place)

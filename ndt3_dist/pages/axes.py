"""Axes of a chart: where values lie, and round ticks in one unit."""

import math
from dataclasses import dataclass

import numpy as np

from ndt3_dist.pages.words import THOUSANDS, number


@dataclass
class Axis:
    """What an axis shows.

    Attributes:
        low, high: Its ends.
        ticks: Values with their text.
        log: Whether equal steps are equal factors.
    """

    low: float
    high: float
    ticks: list[tuple[float, str]]
    log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Of values along the axis, 0 to 1 inside of it."""
        low, high = self.low, self.high
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values, low, high = np.log(values), math.log(low), math.log(high)
        return (values - low) / (high - low)


def linear_axis(low: float, high: float, most: int = 5, whole: bool = False) -> Axis:
    """With round values, whole ones on request, at steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = [s * p for p in (power, 10 * power) for s in (1, 2, 2.5, 5)]
    steps = [s for s in steps if s == int(s)] or [1.0] if whole else steps
    step = next((s for s in steps if (high - low) / s <= most), steps[-1])
    values = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return Axis(low, high, list(zip(values.tolist(), texts_of(values, step), strict=True)))


def log_axis(low: float, high: float, most: int = 5) -> Axis:
    """With 1, 2 and 5 of each power of ten, or the powers alone, or some of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, every in [((1, 2, 5), 1), ((1, 3), 1), *(((1,), n) for n in range(1, 300))]:
        values = [f * 10.0**p for p in powers if p % every == 0 for f in factors]
        values = [v for v in values if low <= v <= high]
        if len(values) <= most:
            break
    return Axis(low, high, [(v, f"{v:g}" if v < 1e4 else number(v)) for v in values], log=True)


def texts_of(values: np.ndarray, step: float) -> list[str]:
    """Ticks in one unit (k, M, ...) and with as many decimals as their step asks for."""
    most = float(np.abs(values).max(initial=0))
    if 0 < most < 1e-3:
        return [number(v) for v in values]
    power = min(int(math.log10(most) // 3), len(THOUSANDS) - 1) if most >= 1e4 else 0
    scaled, unit = step / 1000**power, THOUSANDS[power]
    decimals = next((d for d in range(6) if abs(round(scaled, d) - scaled) < 1e-9 * scaled), 6)
    return [f"{v / 1000**power:.{decimals}f}{unit}" if abs(v) > step / 2 else "0" for v in values]

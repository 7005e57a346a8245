"""What stored times can tell: how far they may be off, and the even clock that they were cut from.

A time on the border of two bins must fall to the later one, whatever the clock began with and
whatever type of number held it. A float holds a time to half its spacing, which grows with the
time: 1e-13 s in float64 at 1,000 s, 1e-7 s at 1.6e9 s, 3e-5 s in float32 at 1,000 s. So much a time
may miss a border, and a border the start that it is counted from. Writers widen float32 to float64;
then the values tell, and not their type.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EDGE = 1e-6
"""Share of a bin by which a time may always miss its border: clocks in float64 seconds do."""
PART = 0.05
"""Share of a bin or sample period by which it may at most, however coarse the times are."""
DIGITS = 15
"""Digits of the rates, periods and starts that are tried, fewest first."""


def slack(error_s: float, unit_s: float) -> float:
    """How much earlier than a border a time may lie and still belong behind it, in s.

    Args:
        error_s: What the distance of the two may be off by.
        unit_s: A bin, or a sample period where that is shorter.
    """
    return min(max(error_s, EDGE * unit_s), PART * unit_s)


def stored_error(*stored: np.ndarray) -> float:
    """What the distance of any two of these times may be off by, having been stored.

    Args:
        stored: Times as the file has them, before anything is computed from them.
    Returns:
        The spacing at the largest of them of the narrowest float that holds them all; of float64
        where they stand on ticks, as whole ms do, which are exact in any type.
    """
    each = [t if np.isfinite(_largest(t)) else t[np.isfinite(t)] for t in stored]
    largest = max((_largest(t) for t in each), default=0.0)
    wide = float(np.spacing(largest))
    if not largest or largest >= float(np.finfo(np.float32).max):
        return wide
    if not all(_is_narrow(t) for t in each):
        return wide
    narrow = float(np.spacing(np.float32(largest)))
    # Rounded times are finer where they are small; ticks are not.
    small = [t[np.abs(t) < largest / 4] for t in each]
    if any(len(t[t != 0]) for t in small) and all((t % narrow == 0).all() for t in small):
        return wide
    return narrow


def _largest(times: np.ndarray) -> float:
    """The largest of them regardless of sign, NaN where there is one; 0 of none."""
    return max(float(times.max()), -float(times.min())) if len(times) else 0.0


def _is_narrow(times: np.ndarray) -> bool:
    """Whether float32 holds all of them; most are found out by their first ones."""
    if times.dtype.kind != "f":
        return False
    return all((t.astype(np.float32) == t).all() for t in (times[:1000], times[1000:]))


@dataclass
class EvenClock:
    """Times that are all a whole number of periods apart.

    Attributes:
        times: In s, (samples,).
        period: In s.
        error: What the distance of one of them and another time may be off by, in s.
    """

    times: np.ndarray
    period: float
    error: float


def even_clock(times: np.ndarray, error_s: float) -> EvenClock | None:
    """The even clock that coarse times were rounded from, where there is one and but one.

    Each time of it lies within half of `error_s` of the stored one, which is all that the file says
    about it; and no other clock that does so is anywhere further off than PART of a period. So what
    is really uneven stays as it is. Samples may be missing.

    Args:
        times: As stored, (samples,).
        error_s: As `stored_error` has it.
    """
    if len(times) < 3 or not np.isfinite(times).all():
        return None
    steps = _steps(times, error_s)
    if steps is None:
        return None
    relative = times - times[0]
    half = error_s / 2 + 2 * float(np.spacing(relative[-1]))
    rough = relative[-1] / steps[-1]
    reach = 2 * half / steps[-1]

    def starts(period: float) -> tuple[float, float]:
        """First and last start, from the first time on, that a clock of this period may have."""
        late = relative - steps * period
        return float(late.max()) - half, float(late.min()) + half

    if rough <= 0 or np.subtract(*starts(rough)) > 2 * half:
        return None  # no period within reach can mend that
    best = _best(rough - reach, rough + reach, lambda p: float(np.subtract(*starts(p))))
    first, last = starts(best)
    if not 0 <= last - first <= 2 * PART * best:
        return None
    period = _short_period(rough, reach, starts) or best
    first, last = starts(period)
    start = _shortest(times[0], first, last)
    fine = float(np.spacing(np.abs(times).max()))
    return EvenClock(start + steps * period, period, max((last - first) / 2, fine))


def _steps(times: np.ndarray, error_s: float) -> np.ndarray | None:
    """Periods from the first time to each: rounded steps, or one each where they are too coarse."""
    apart = np.diff(times)
    typical = float(np.median(apart))
    if error_s > typical / 8:
        return np.arange(len(times), dtype=np.float64)
    if apart.min() <= 0:
        return None
    numbers = np.rint(apart / apart[apart < 1.5 * typical].mean())
    return None if numbers.min() < 1 else np.r_[0.0, np.cumsum(numbers)]


def _short_period(rough: float, reach: float, starts) -> float:
    """The shortest rate or period within reach that leaves a start; 0 where none does."""
    for digits in range(1, DIGITS):
        for period in (1 / float(f"{1 / rough:.{digits}g}"), float(f"{rough:.{digits}g}")):
            if abs(period - rough) <= reach:
                first, last = starts(period)
                if first <= last:
                    return period
    return 0.0


def _best(low: float, high: float, cost: Callable[[float], float]) -> float:
    """Where a convex function is least between two numbers, by golden section."""
    ratio = (5**0.5 - 1) / 2
    one, other = high - ratio * (high - low), low + ratio * (high - low)
    at_one, at_other = cost(one), cost(other)
    for _ in range(40):
        if at_one < at_other:
            high, other, at_other = other, one, at_one
            one = high - ratio * (high - low)
            at_one = cost(one)
        else:
            low, one, at_one = one, other, at_other
            other = low + ratio * (high - low)
            at_other = cost(other)
    return one if at_one < at_other else other


def _shortest(origin: float, first: float, last: float) -> float:
    """The number with the fewest decimals between origin + first and origin + last."""
    middle = origin + (first + last) / 2
    for decimals in range(DIGITS):
        short = round(middle, decimals)
        if first <= short - origin <= last:
            return short
    return middle

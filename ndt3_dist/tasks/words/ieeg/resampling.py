"""Signals at another rate and envelopes of a band, block by block: never the whole in memory.

Each block is computed with so much of its neighbours that no border shows. Slower rates are behind
a low-pass filter (the polyphase one of scipy's `resample_poly`), so that nothing above half of the
new rate folds into it.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from ndt3_dist.errors import BadInput

Read = Callable[[int, int], np.ndarray]
"""(first, last + 1) -> samples (samples, channels) of a signal."""
FILTER = 10
"""Half length of the low-pass, in samples of the slower rate (`resample_poly`)."""
BLOCK = 1 << 15
"""Samples of a block."""
LARGEST = 1024
"""Of the two whole numbers whose ratio is that of the rates."""


def ratio(rate_hz: float, target_hz: float) -> Fraction:
    """target / rate as whole numbers. Raises BadInput where none are small enough."""
    found = Fraction(target_hz / rate_hz).limit_denominator(LARGEST)
    if found <= 0 or abs(float(found) * rate_hz / target_hz - 1) > 1e-9:
        raise BadInput(
            f"{target_hz:g} Hz of {rate_hz:g} Hz is no ratio of whole numbers up to {LARGEST}; "
            "choose another target_hz"
        )
    return found


def resampled(read: Read, samples: int, step: Fraction) -> Iterator[tuple[int, np.ndarray]]:
    """(first, block) of a signal at another rate, in order, block (samples, channels) float32.

    Args:
        read: Of the signal.
        samples: It has.
        step: New rate / old rate.
    """
    from scipy.signal import resample_poly

    up, down = step.numerator, step.denominator
    total = -(-samples * up // down)
    if up == down:
        for first in range(0, samples, BLOCK):
            yield first, read(first, min(first + BLOCK, samples)).astype(np.float32)
        return
    # Blocks begin at multiples of `down`, which are samples of both rates.
    reach = -(-FILTER * max(up, down) // up) + 1
    margin = -(-reach // down) * down
    block = max(BLOCK // down, 1) * down
    for first in range(0, samples, block):
        last = min(first + block, samples)
        begin = max(first - margin, 0)
        taken = read(begin, min(last + margin, samples)).astype(np.float64)
        made = resample_poly(taken, up, down, axis=0, padtype="edge")
        skip, to = (first - begin) * up // down, first * up // down
        number = (total if last == samples else last * up // down) - to
        yield to, made[skip : skip + number].astype(np.float32)


def envelope(read: Read, samples: int, rate_hz: float, band: tuple[float, float]) -> Read:
    """A signal's amplitude in a band: band-pass (Butterworth, order 4, both ways), then Hilbert's.

    Args:
        band: Lowest and highest frequency in Hz.
    """
    from scipy.signal import butter, hilbert, sosfiltfilt

    low, high = band
    if not 0 < low < high < rate_hz / 2:
        raise BadInput(f"band {low:g} to {high:g} Hz of a signal at {rate_hz:g} Hz; expected less")
    sos = butter(4, band, "bandpass", fs=rate_hz, output="sos")
    margin = int(np.ceil(max(1.0, 8 / low) * rate_hz))

    def of(first: int, last: int) -> np.ndarray:
        begin, end = max(first - margin, 0), min(last + margin, samples)
        values = sosfiltfilt(sos, read(begin, end).astype(np.float64), axis=0)
        return np.abs(np.asarray(hilbert(values, axis=0)))[first - begin : last - begin]

    return of

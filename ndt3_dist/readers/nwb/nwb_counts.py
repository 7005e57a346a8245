"""Spikes that an NWB file holds binned already: laid on one grid, with every hole known.

Nothing is resampled here: a count keeps its bin. Where the file's bins are not all in step (trials
that each begin anew), a stretch is moved by at most half a bin, which only spikes alone may be.
"""

from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import EDGE, even_clock, stored_error
from ndt3_dist.readers.nwb.nwb_file import NwbFile, TimeSeries
from ndt3_dist.readers.nwb.nwb_series import expand
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import SAME_BIN
from ndt3_dist.readers.repair import in_order
from ndt3_dist.shards.manifest import Array

STEP = 0.05
"""Share of a bin by which timestamps of neighbouring bins may be off their step."""


@dataclass
class Counts:
    """Counts on a grid that begins at `start`.

    Attributes:
        counts: (file bins, channels) int64; zeros where the file has no bin.
        bin_s: Length of a bin in s.
        start: Start of the first bin in s.
        spans: Stretches in s in which the file has bins, (spans, 2).
        arrays: One array for each series.
        error: What the distance of `start` from another time may be off by, in s.
    """

    counts: np.ndarray
    bin_s: float
    start: float
    spans: np.ndarray
    arrays: list[Array]
    error: float


def read_counts(nwb: NwbFile, recipe: ReadOptions) -> Counts:
    """Counts at the recipe's path; several series are arrays side by side."""
    series = expand(nwb, recipe.spikes.path, "counts")
    data = [checked_counts(item) for item in series]
    times, bin_s, error = bin_starts(series[0], recipe.spikes.stamped, len(data[0]))
    for item, found in zip(series, data, strict=True):
        theirs, *_ = bin_starts(item, recipe.spikes.stamped, len(found))
        if len(theirs) != len(times) or np.abs(theirs - times).max() > STEP * bin_s:
            raise BadInput(f"{item.path} has other bins than {series[0].path}")
    bin_, first = grid(times, bin_s, series[0].path)
    off = np.abs(times - (times[0] + bin_ * bin_s)).max()
    if off > STEP * bin_s and recipe.covariates.path:
        raise BadInput(
            f"{series[0].path}: bins are up to {off * 1e3:.1f} ms out of step with the first; "
            "counts that are placed next to covariates need one grid of bins"
        )
    counts = np.zeros((int(bin_[-1]) + 1, sum(d.shape[1] for d in data)), np.int64)
    counts[bin_] = np.concatenate(data, axis=1)
    last = np.append(first[1:], len(times)) - 1
    spans = times[0] + np.column_stack([bin_[first], bin_[last] + 1]) * bin_s
    arrays = [Array(name=s.name, channels=d.shape[1]) for s, d in zip(series, data, strict=True)]
    return Counts(counts, bin_s, float(times[0]), spans, arrays, error)


def checked_counts(item: TimeSeries) -> np.ndarray:
    """Counts of a series, (bins, channels) int64; BadInput where they are none."""
    data, path = item.data(), item.path
    if data.ndim != 2 or not data.size:
        raise BadInput(f"{path} has shape {data.shape}; expected counts of (bins, channels)")
    wrong = ~np.isfinite(data) | (data < 0) | (data != np.round(data))
    if wrong.any():
        bin_, channel = np.argwhere(wrong)[0]
        raise BadInput(
            f"{path} has {data[bin_, channel]:g} in bin {bin_}, channel {channel}; expected "
            "counts: whole numbers from 0"
        )
    if data.max() > 255:
        bin_, channel = np.argwhere(data > 255)[0]
        raise BadInput(
            f"{path} has {data[bin_, channel]:g} spikes in bin {bin_}, channel {channel}; "
            "at most 255 fit"
        )
    return data.astype(np.int64)


def bin_starts(item: TimeSeries, stamped: str, bins: int) -> tuple[np.ndarray, float, float]:
    """Start of each bin, the length of a bin and the error of the starts, in s."""
    times, path = item.timestamps(), item.path
    if times is None:
        if not (item.rate and item.rate > 0):
            raise BadInput(f"{path} has neither timestamps nor a rate above 0")
        bin_s = 1.0 / item.rate
        times = item.starting_time + np.arange(bins) * bin_s
        error = float(np.spacing(np.abs(times).max()))
    else:
        error = stored_error(times)
        if len(times) != bins or bins < 2:
            raise BadInput(f"{path}: {len(times)} times, {bins} bins; expected at least 2 of each")
        typical = float(np.median(np.diff(times)))
        if error > EDGE * typical and (even := even_clock(times, error)):
            times, error = even.times, even.error
        in_order(f"{path}: timestamps", times, error)
        steps = np.diff(times)
        # The mean over the steps between neighbours: a median keeps the rounding of one step.
        bin_s = float(np.mean(steps[steps < np.median(steps) * (1 + STEP)]))
        if abs(round(bin_s, 3) / bin_s - 1) < SAME_BIN:
            bin_s = round(bin_s, 3)
    return times - bin_s * (stamped == "end"), bin_s, error


def grid(times: np.ndarray, bin_s: float, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Grid number of each bin, and which bins begin a stretch without holes.

    Neighbours in the file are neighbours on the grid, however the clock rounds.
    """
    steps = np.diff(times) / bin_s
    if (steps < 1 - STEP).any():
        at = int(np.flatnonzero(steps < 1 - STEP)[0])
        raise BadInput(
            f"{path}: bins at {times[at]:.4f} and {times[at + 1]:.4f} s overlap; "
            f"bins last {bin_s:.4f} s"
        )
    first = np.r_[0, np.flatnonzero(steps > 1 + STEP) + 1]
    numbers = np.arange(len(times))
    for begin, end in zip(first.tolist(), [*first[1:].tolist(), len(times)], strict=True):
        at = round((times[begin] - times[0]) / bin_s)
        if begin:
            at = max(at, int(numbers[begin - 1]) + 1)
        numbers[begin:end] = at + np.arange(end - begin)
    return numbers, first

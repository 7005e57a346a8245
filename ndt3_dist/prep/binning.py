"""From events and samples to bins, aligned to the sample.

Bin b of a session covers [start + b * bin, start + (b + 1) * bin). A spike or sample on an edge
belongs to the bin that begins there, and so does one that misses the edge by no more than its
time was stored to (`clocks.slack`): the bins are those of the exact times.

A covariate bin is the mean of the samples whose time lies in it, which looks ahead no further than
its own end, where bins hold MANY samples or all the same number. Else a mean would be that of times
now before, now after its centre: the value at the centre is taken on the line between the samples
around it, never across a gap. The later one may lie beyond the bin's end, by less than a sample
period; a recipe that says causal has the last sample before the end instead.
"""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import slack
from ndt3_dist.readers.recording import SAME_BIN, Recording


def num_bins(recording: Recording, bin_s: float) -> int:
    """Whole bins of a recording, which covariates begin and end where there are any."""
    error_s = recording.covariate_error_s
    if recording.counts is not None or not len(recording.covariate_times):
        error_s = max(recording.spike_error_s, recording.span_error_s)
    lasts = (recording.stop_s - recording.start_s) / bin_s
    bins = int(np.floor(lasts + slack(error_s, bin_s) / bin_s))
    if recording.counts is not None:
        factor = max(round(bin_s / recording.count_bin_s), 1)
        bins = min(bins, len(recording.counts) // factor)
    return bins


def bin_spikes(
    times: list[np.ndarray], start_s: float, bin_s: float, bins: int, error_s: float = 0.0
) -> np.ndarray:
    """Count spikes in bins.

    Args:
        times: Sorted spike times of each channel, in s.
        start_s: Start of bin 0.
        bin_s: Bin size in s.
        error_s: What the distance of a spike from `start_s` may be off by.
    Returns:
        Counts, (bins, channels), uint8; spikes outside the bins are not in it.
    Raises:
        BadInput: A bin holds more than 255 spikes of a channel; counts never wrap.
    """
    by_channel = np.zeros((len(times), bins), np.uint8)
    more = slack(error_s, bin_s) / bin_s
    for channel, t in enumerate(times):
        where = t - start_s
        where /= bin_s
        where += more
        first, last = where.searchsorted((0, bins))  # it ascends as the times do
        where = where[first:last]
        found = np.bincount(where.astype(np.int64), minlength=bins)
        # A bin of more than MOST has the first and last of so many within its length.
        if (where[MOST:] - where[:-MOST] < 1).any() and found.max() > MOST:
            raise too_many(channel, int(found.argmax()), int(found.max()), start_s, bin_s)
        by_channel[channel] = found
    counts = np.empty((bins, len(times)), np.uint8)
    for first in range(0, bins, TILE):
        counts[first : first + TILE] = by_channel[:, first : first + TILE].T
    return counts


MOST = 255
"""Spikes of a channel that a bin can hold."""
TILE = 2048
"""Bins that are turned about at once, while they lie in the processor's cache."""


def as_uint8(counts: np.ndarray, start_s: float, bin_s: float) -> np.ndarray:
    """Counts as they are stored; BadInput that names the channel and time of one above 255."""
    if counts.size and counts.max() > MOST:
        bin_, channel = np.unravel_index(counts.argmax(), counts.shape)
        raise too_many(int(channel), int(bin_), int(counts.max()), start_s, bin_s)
    return counts.astype(np.uint8)


def too_many(channel: int, bin_: int, count: int, start_s: float, bin_s: float) -> BadInput:
    return BadInput(
        f"channel {channel} has {count} spikes in the bin at "
        f"{start_s + bin_ * bin_s:.3f} s; at most {MOST} fit: use smaller bins or check the units"
    )


def count_spikes(recording: Recording, bin_s: float, bins: int) -> np.ndarray:
    """Spikes of a recording in its first `bins` bins, whether it holds times or counts.

    Args:
        bin_s: Bin size in s.
    Returns:
        (bins, channels) uint8.
    Raises:
        BadInput: A count is above 255, the file's bins do not divide ours, or its spike times are
            coarser than bins.
    """
    if recording.counts is None:
        error_s = recording.spike_error_s
        if error_s > bin_s:
            raise BadInput(
                f"holds spike times to {error_s:.3g} s, in bins of {bin_s:g} s; expected float64, "
                "or seconds since the start of the session"
            )
        return bin_spikes(recording.spike_times, recording.start_s, bin_s, bins, error_s)
    factor = round(bin_s / recording.count_bin_s)
    if factor < 1 or abs(factor * recording.count_bin_s / bin_s - 1) > SAME_BIN:
        raise BadInput(
            f"holds counts of {recording.count_bin_s * 1e3:g} ms; they can be summed to bins that "
            f"are a multiple of it, not to bin_size_ms {bin_s * 1e3:g}"
        )
    whole = recording.counts[: bins * factor].astype(np.int64)
    summed = whole.reshape(bins, factor, whole.shape[1]).sum(axis=1)  # (bins, channels)
    return as_uint8(summed, recording.start_s, bin_s)


def bin_covariates(
    times: np.ndarray,
    values: np.ndarray,
    start_s: float,
    bin_s: float,
    bins: int,
    max_gap_s: float,
    error_s: float = 0.0,
    resample: str = "auto",
    causal: bool = False,
) -> np.ndarray:
    """Resample covariates to bins.

    Args:
        times: Sorted time of each sample's start in s, (samples,).
        values: (samples, dims); NaN where not valid.
        start_s: Start of bin 0.
        bin_s: Bin size in s.
        max_gap_s: Samples further apart than this are not interpolated between.
        error_s: What the distance of a sample from `start_s` may be off by.
        resample: mean, linear or auto, as `covariates.resample` of a recipe.
        causal: Whether no value may come from beyond the end of its bin.
    Returns:
        (bins, dims) float32; NaN in every bin and dim that has a NaN or infinite sample, or no
        sample near.
    """
    dims = values.shape[1]
    more = sample_slack(times, bin_s, error_s)
    where = np.floor((times - start_s) / bin_s + more / bin_s).astype(np.int64)
    inside = (where >= 0) & (where < bins)
    where, inner = where[inside], values[inside]
    number = np.bincount(where, minlength=bins)
    total = np.stack(
        [np.bincount(where, weights=inner[:, d], minlength=bins) for d in range(dims)], axis=1
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number[:, None]
    lines = resample == "linear" or (resample == "auto" and not even(where, times[inside], bin_s))
    taken = np.arange(bins) if lines else np.flatnonzero(number == 0)
    if len(taken) and len(times):
        centre = start_s + (taken + 0.5) * bin_s
        after = np.searchsorted(times, centre)
        near = (after > 0) & (after < len(times))
        before, after = np.clip(after - 1, 0, None), np.clip(after, None, len(times) - 1)
        near &= times[after] - times[before] <= max_gap_s + more
        late = near & causal & (times[after] >= centre + bin_s / 2 - more)
        for d in range(dims):
            # A NaN neighbour makes its interpolation NaN, as it should.
            line = np.interp(centre, times, values[:, d])
            line = np.where(late, values[before, d], line)
            own = mean[taken, d]  # stays at a gap, and where a sample of the bin is not valid
            mean[taken, d] = np.where(near & ((number[taken] == 0) | np.isfinite(own)), line, own)
    with np.errstate(over="ignore"):
        binned = mean.astype(np.float32)
    binned[~np.isfinite(binned)] = np.nan
    return binned


MANY = 4
"""Samples a bin from which their mean is that of the bin, wherever they lie in it."""


def even(where: np.ndarray, times: np.ndarray, bin_s: float) -> bool:
    """Whether means of samples are means of bins: there are MANY, or as many in every bin.

    Bins beside missing samples, and the first and last, say nothing.

    Args:
        where: Bin of each sample, ascending.
        times: Of each sample.
    """
    if len(times) < 2:
        return True
    steps = np.diff(times)
    period = float(np.median(steps))
    if period * MANY <= bin_s:
        return True
    missing = steps >= 1.5 * period
    if ((np.diff(where) > 1) & ~missing).any():
        return False
    held, number = np.unique(where, return_counts=True)
    beside = np.r_[where[:-1][missing], where[1:][missing], where[[0, -1]]]
    return len(np.unique(number[~np.isin(held, beside)])) <= 1


def sample_slack(times: np.ndarray, bin_s: float, error_s: float) -> float:
    """How much earlier than a border a sample may lie and still belong behind it, in s."""
    least = slack(0.0, bin_s)
    if error_s <= least or len(times) < 2:
        return least
    period = float(np.median(np.diff(times)))
    return max(least, slack(error_s, min(period, bin_s)))


def covariate_scales(values: np.ndarray, quantile: float) -> np.ndarray:
    """Scale of each dimension: a quantile of |x| over its finite bins, 1 where that is ~0.

    Args:
        values: Bins of the train or calibration part alone, (bins, dims).
        quantile: Such as 0.999.
    Returns:
        (dims,) float64, never 0. Zero stays zero after division: NDT3 does not centre.
    Source: NDT3 `apply_minmax_norm` (specified as q0.999 of |x| per session).
    """
    scales = np.ones(values.shape[1])
    for d in range(values.shape[1]):
        finite = np.abs(values[np.isfinite(values[:, d]), d])
        if len(finite):
            scale = float(np.quantile(finite.astype(np.float64), quantile))
            scales[d] = scale if scale > 1e-9 else 1.0
    return scales

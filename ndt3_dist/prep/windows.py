"""Cut a recording into the windows of a corpus, and say why one is rejected.

Windows lie end to end inside a labelled interval and a span of the recording, and never cross the
border of either; each begins with the first whole bin inside both. Rejection: no spikes,
every covariate constant, or shorter than a window (the end of an interval). The test split rejects
nothing: its last, shorter window is kept too, so that every test bin is scored.
"""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import bin_covariates, count_spikes, covariate_scales, num_bins
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.clocks import slack
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import (
    Covariate,
    Interval,
    Session,
    Windows,
    neural_tokens_per_bin,
    sample_key,
    session_id,
)
from ndt3_dist.shards.write import npy_bytes

MOST_COUNTS = 8_000_000_000
"""Bins times channels of a session: a day of 20 ms and 1,800 channels."""
CONSTANT = 1e-6
"""A covariate whose standard deviation in units of its scale is below this is constant."""


def cut(recording: Recording, recipe: Recipe, source: str, source_sha256: str):
    """Bin, scale and cut a recording.

    Args:
        recording: As a reader returned it.
        recipe: What to make of it.
        source: Path of the file below the recipe's source.
        source_sha256: Hash of the file.
    Returns:
        The session's manifest entry, and its samples as (split, key, members, index fields).
    Raises:
        BadInput: Shorter than a window, no spikes, no interval to scale from.
    """
    bin_s = recipe.bin_size_ms / 1000
    bins = num_bins(recording, bin_s)
    if bins < recipe.window_bins:
        raise BadInput(
            f"recording of {max(bins, 0) * bin_s:.2f} s is shorter than a window "
            f"({recipe.window_ms / 1000:g} s)"
        )
    channels = sum(array.channels for array in recording.arrays)
    if bins * channels > MOST_COUNTS:
        raise BadInput(
            f"{bins} bins of {channels} channels are {bins * channels / 1e9:.0f} GB of counts; "
            "expected a session of hours and an array of hundreds of channels"
        )
    spikes = count_spikes(recording, bin_s, bins)
    spans = span_bins(recording, bin_s, bins)
    if not spikes.any():
        raise BadInput("has zero spikes between its first and last bin")
    name = session_id(recipe.dataset, recording.subject, recording.session)
    intervals = label_intervals(name, bins, recipe)
    covariates = np.zeros((bins, 0), np.float32)
    scales = np.zeros(0)
    if recording.covariates.shape[1]:
        covariates = bin_covariates(
            recording.covariate_times,
            recording.covariates,
            recording.start_s,
            bin_s,
            bins,
            recipe.covariates.max_gap_ms / 1000,
            recording.covariate_error_s,
        )
        inside = np.zeros(bins, bool)
        for first, last in spans:
            inside[first:last] = True
        covariates[~inside] = np.nan  # what no window shows has no part in the scales either
        scales = fit_scales(covariates, intervals, recipe.covariates.quantile)
        covariates = (covariates / scales).astype(np.float32)
    samples, windows = [], {}
    patches = neural_tokens_per_bin(recording.arrays)
    for interval in intervals:
        windows.setdefault(interval.split, {"kept": 0, "rejected": {}})
    for split, first, last in stretches(intervals, spans):
        tally = windows[split]
        reasons = reject(spikes[first:last], covariates[first:last], recipe.window_bins)
        for start, reason in zip(range(first, last, recipe.window_bins), reasons, strict=True):
            if reason and split != "test":
                tally["rejected"][reason] = tally["rejected"].get(reason, 0) + 1
                continue
            tally["kept"] += 1
            stop = min(start + recipe.window_bins, last)
            s, c = spikes[start:stop], covariates[start:stop]
            dims = c.shape[1]
            context = max(dims, 1) + 1  # a zero constraint for each dim, an absent return
            fields = {
                "start_bin": start,
                "bins": stop - start,
                "tokens": (stop - start) * (patches + dims) + context,
                "context_tokens": context,
                "spike_targets": s.size,
                "covariate_targets": int(np.isfinite(c).sum()),
            }
            members = {"spikes": npy_bytes(s), "covariates": npy_bytes(c)}
            samples.append((split, sample_key(name, start), members, fields))
    total = sum(len(t) for t in recording.spike_times)
    if recording.counts is not None:
        total = int(recording.counts.sum())
    described = zip(recording.covariate_names, recording.covariate_units, scales, strict=True)
    session = Session(
        id=name,
        dataset=recipe.dataset,
        subject=recording.subject,
        session=recording.session,
        source=source,
        source_sha256=source_sha256,
        licence=recipe.licence,
        bins=bins,
        start_s=recording.start_s,
        arrays=recording.arrays,
        covariates=[
            Covariate(name=n, unit=unit, scale=float(scale)) for n, unit, scale in described
        ],
        intervals=intervals,
        windows={split: Windows(**tally) for split, tally in windows.items()},
        spikes=int(spikes.sum()),
        spikes_outside=int(total - int(spikes.sum())),
        dropped_samples=recording.dropped_samples,
    )
    return session, samples


def span_bins(recording: Recording, bin_s: float, bins: int) -> list[tuple[int, int]]:
    """First and last + 1 of the bins that lie wholly inside each span of a recording."""
    if recording.spans is None:
        return [(0, bins)]
    edges = (recording.spans - recording.start_s) / bin_s
    more = slack(recording.span_error_s, bin_s) / bin_s
    first = np.clip(np.ceil(edges[:, 0] - more), 0, bins).astype(int)
    last = np.clip(np.floor(edges[:, 1] + more), 0, bins).astype(int)
    return [(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True) if a < b]


def stretches(intervals: list[Interval], spans: list[tuple[int, int]]):
    """What intervals and spans have in common, in order of time, as (split, first, last + 1)."""
    for interval in intervals:
        for first, last in spans:
            first, last = max(first, interval.start_bin), min(last, interval.stop_bin)
            if first < last:
                yield interval.split, first, last


def label_intervals(name: str, bins: int, recipe: Recipe) -> list[Interval]:
    """The labelled intervals of a session by the first rule that matches it, in order of time."""
    rule = recipe.rule_for(name)
    if rule is None:
        raise BadInput(f"no split rule of the recipe matches session {name}")
    per_unit = bins if rule.unit == "fraction" else 1000 / recipe.bin_size_ms
    intervals = []
    for split, (start, stop) in rule.intervals.items():
        first = min(round(start * per_unit), bins)
        last = bins if stop is None else min(round(stop * per_unit), bins)
        if last > first:
            intervals.append(Interval(split=split, start_bin=first, stop_bin=last))
    return sorted(intervals, key=lambda i: i.start_bin)


def fit_scales(covariates: np.ndarray, intervals: list[Interval], quantile: float) -> np.ndarray:
    """Scales from the train and calibration bins alone, so that no test bin leaks into them."""
    fit = [covariates[i.start_bin : i.stop_bin] for i in intervals if i.split in FIT_SPLITS]
    if not fit:
        raise BadInput("has no train or calibration interval to take covariate scales from")
    return covariate_scales(np.concatenate(fit), quantile)


FIT_SPLITS = ("train", "calibration")


def reject(spikes: np.ndarray, covariates: np.ndarray, window_bins: int) -> list[str]:
    """Why each window of a stretch is rejected; empty where it is kept.

    Args:
        spikes: Of the stretch, (bins, channels).
        covariates: (bins, dims), NaN where not valid.
        window_bins: Windows lie end to end; the last one may be shorter, and is rejected for it.
    Source: NDT3 `heuristic_sanitize`; windows without one finite covariate are kept for their
    spikes.
    """
    whole, rest = divmod(len(spikes), window_bins)
    bins = whole * window_bins
    silent = ~spikes[:bins].reshape(whole, window_bins * spikes.shape[1]).any(axis=1)
    shape = whole, window_bins, covariates.shape[1]
    values = covariates[:bins].reshape(shape).astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(axis=1)  # (windows, dims)
    values[~finite] = 0
    mean = values.sum(axis=1) / np.maximum(count, 1)
    apart = np.where(finite, values - mean[:, None], 0)
    deviation = np.sqrt((apart**2).sum(axis=1) / np.maximum(count, 1))
    # A dimension that is nowhere finite deviates by nothing; one that varies is enough.
    constant = (count > 0).any(axis=1) & (deviation < CONSTANT).all(axis=1)
    reasons = np.where(silent, "no_spikes", np.where(constant, "constant_covariates", ""))
    return reasons.tolist() + ["too_short"] * (rest > 0)

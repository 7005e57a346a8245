"""Cut a recording into the windows of a corpus, and say why one is rejected.

Windows lie end to end inside a labelled interval and a span of the recording, and never cross the
border of either; each begins with the first whole bin inside both. Rejection: no spikes,
every covariate constant, or shorter than a window (the end of an interval). The test split rejects
nothing: its last, shorter window is kept too, so that every test bin is scored.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import num_bins
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.streams import Binned, bin_streams
from ndt3_dist.readers.clocks import slack
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.index import count_values
from ndt3_dist.shards.manifest import Interval, Session, Windows, sample_key, session_id
from ndt3_dist.shards.write import npy_bytes

CONSTANT = 1e-6
"""A covariate whose standard deviation in units of its scale is below this is constant."""


class Members(Mapping):
    """The streams of a window as the bytes of .npy files, made when they are asked for: a session
    of a thousand channels is not held twice."""

    def __init__(self, parts: dict[str, np.ndarray]):
        self.parts = parts

    def __getitem__(self, stream: str) -> bytes:
        return npy_bytes(self.parts[stream])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def bytes(self) -> int:
        """What they take in a tar at most, with the headers of .npy and of tar."""
        return sum(part.nbytes + 128 + 1024 for part in self.parts.values())


def cut(recording: Recording, recipe: Recipe, source: str, source_sha256: str):
    """Bin, scale and cut a recording.

    Args:
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
    name = session_id(recipe.dataset, recording.subject, recording.session)
    intervals, spans = label_intervals(name, bins, recipe), span_bins(recording, bin_s, bins)
    binned, covariates = bin_streams(recording, recipe, bins, spans, intervals)
    spikes = binned["spikes"].values if "spikes" in binned else None
    if spikes is not None and not spikes.any():
        raise BadInput("has zero spikes between its first and last bin")
    samples, windows = [], {}
    for interval in intervals:
        windows.setdefault(interval.split, {"kept": 0, "rejected": {}})
    for split, first, last in spans_by_split(intervals, spans):
        tally = windows[split]
        reasons = reject(binned, first, last, recipe.window_bins)
        for start, reason in zip(range(first, last, recipe.window_bins), reasons, strict=True):
            if reason and split != "test":
                tally["rejected"][reason] = tally["rejected"].get(reason, 0) + 1
                continue
            tally["kept"] += 1
            stop = min(start + recipe.window_bins, last)
            parts = {n: b.window(start, stop) for n, b in binned.items()}
            values = {n: count_values(p, binned[n].stream.changes) for n, p in parts.items()}
            fields = {"start_bin": start, "bins": stop - start, "values": values}
            samples.append((split, sample_key(name, start), Members(parts), fields))
    total = sum(len(t) for t in recording.spike_times)
    if recording.counts is not None:
        total = int(recording.counts.sum())
    counted = 0 if spikes is None else int(spikes.sum())
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
        streams=[b.stream for b in binned.values()],
        arrays=recording.arrays,
        covariates=covariates,
        intervals=intervals,
        windows={split: Windows(**tally) for split, tally in windows.items()},
        spikes=counted,
        spikes_outside=int(total - counted),
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


def spans_by_split(intervals: list[Interval], spans: list[tuple[int, int]]):
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


def reject(binned: dict[str, Binned], first: int, last: int, window_bins: int) -> list[str]:
    """Why each window of a stretch is rejected; empty where it is kept.

    Args:
        binned: Streams of the session.
        first, last: First and last + 1 of the stretch's bins. Windows lie end to end; the last one
            may be shorter, and is rejected for it.
        window_bins: Bins of a window.
    Source: NDT3 `heuristic_sanitize`; windows without one finite covariate are kept for their
    spikes. Those of recordings without spikes are rejected where no value of any stream is valid.
    """
    whole, rest = divmod(last - first, window_bins)
    last = first + whole * window_bins
    parts = {n: of_windows(b, first, last, window_bins) for n, b in binned.items()}
    reasons = np.full(whole, "", dtype="<U20")
    if "covariates" in binned:
        reasons[constant(binned["covariates"].window(first, last), window_bins)] = (
            "constant_covariates"
        )
    if "spikes" in parts:
        reasons[~parts["spikes"].any(axis=1)] = "no_spikes"
    elif whole:
        valid = [np.isfinite(part).any(axis=1) for part in parts.values()]
        reasons[~np.any(valid, axis=0)] = "nothing_recorded"
    return reasons.tolist() + ["too_short"] * (rest > 0)


def of_windows(binned: Binned, first: int, last: int, window_bins: int) -> np.ndarray:
    """Its values in windows that lie end to end, (windows, values)."""
    values = binned.window(first, last)
    return values.reshape(
        (last - first) // window_bins, window_bins * binned.per_bin * values.shape[1]
    )


def constant(covariates: np.ndarray, window_bins: int) -> np.ndarray:
    """Which windows have covariates of which none varies, (windows,) bool.

    A dimension that is nowhere finite deviates by nothing; one that varies is enough.
    """
    shape = len(covariates) // window_bins, window_bins, covariates.shape[1]
    values = covariates.reshape(shape).astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(axis=1)  # (windows, dims)
    values[~finite] = 0
    mean = values.sum(axis=1) / np.maximum(count, 1)
    apart = np.where(finite, values - mean[:, None], 0)
    deviation = np.sqrt((apart**2).sum(axis=1) / np.maximum(count, 1))
    return (count > 0).any(axis=1) & (deviation < CONSTANT).all(axis=1)

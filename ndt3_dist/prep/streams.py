"""A recording as the streams of a corpus: binned, scaled, in the order of a window's members."""

from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import bin_covariates, count_spikes, covariate_scales
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.shards.manifest import Covariate, Interval, Stream

MOST_COUNTS = 8_000_000_000
"""Values of a stream of a session: of spikes, a day of 20 ms and 1,800 channels."""
FIT_SPLITS = ("train", "calibration")
DESCRIPTIONS = {
    "spikes": "counts per bin, uint8 (bins, channels of all arrays side by side)",
    "covariates": "recorded value / scale, float32 (bins, dims), NaN where not valid",
}
"""Of the streams that the project's own readers give, as a manifest has them."""


@dataclass
class Binned:
    """A stream of a whole session.

    Attributes:
        stream: As the manifest describes it.
        values: (bins * per_bin, ...).
        per_bin: Its rows of a bin.
    """

    stream: Stream
    values: np.ndarray
    per_bin: int = 1

    def window(self, start: int, stop: int) -> np.ndarray:
        """Its rows in some bins."""
        return self.values[start * self.per_bin : stop * self.per_bin]


def bin_streams(
    recording: Recording,
    recipe: Recipe,
    bins: int,
    spans: list[tuple[int, int]],
    intervals: list[Interval],
) -> tuple[dict[str, Binned], list[Covariate]]:
    """All streams of a recording by name, in order, and its covariates with their scales.

    Args:
        spans: First and last + 1 of the bins that windows may show.
        intervals: Whose train and calibration bins decide the scales.
    Raises:
        BadInput: There are more values than any session has, a stream has the name of another, or
            no interval to take scales from.
    """
    rate, found, covariates = 1000 / recipe.bin_size_ms, {}, []
    if recording.arrays:
        channels = sum(array.channels for array in recording.arrays)
        check_size("counts", bins, channels)
        counts = count_spikes(recording, recipe.bin_size_ms / 1000, bins)
        stream = Stream(name="spikes", rate_hz=rate, dims=channels, dtype="uint8", unit="count")
        found["spikes"] = Binned(stream, counts)
        values, covariates = bin_scaled(recording, recipe, bins, spans, intervals)
        dims = values.shape[1]
        stream = Stream(name="covariates", rate_hz=rate, dims=dims, dtype="float32", unit="scale")
        found["covariates"] = Binned(stream, values)
    for signal in recording.signals:
        if signal.name in found:
            raise BadInput(f"has two streams that are called {signal.name}; give them other names")
        found[signal.name] = bin_signal(signal, recording.start_s, recipe, bins)
    if not found:
        raise BadInput("has no stream: neither spikes nor signals came of its reader")
    return found, covariates


def check_size(what: str, rows: int, dims: int) -> None:
    """Refuse a stream that no memory holds."""
    if rows * dims > MOST_COUNTS:
        raise BadInput(
            f"{rows} rows of {dims} {what} are {rows * dims / 1e9:.0f} GB; expected a session of "
            "hours and hundreds of channels"
        )


def bin_scaled(recording: Recording, recipe: Recipe, bins: int, spans, intervals):
    """Covariates in units of their scales, (bins, dims) float32, and their descriptions."""
    if not recording.covariates.shape[1]:
        return np.zeros((bins, 0), np.float32), []
    clocks = [(recording.covariate_times, recording.covariates)]
    clocks += [(more.times, more.values) for more in recording.more_covariates]
    said, each = recipe.covariates, []
    for times, samples in clocks:
        each.append(
            bin_covariates(
                times,
                samples,
                recording.start_s,
                recipe.bin_size_ms / 1000,
                bins,
                said.max_gap_ms / 1000,
                recording.covariate_error_s,
                said.resample,
                said.causal,
            )
        )
    values = each[0] if len(each) == 1 else np.concatenate(each, axis=1)
    inside = np.zeros(bins, bool)
    for first, last in spans:
        inside[first:last] = True
    values[~inside] = np.nan  # what no window shows has no part in the scales either
    empty = np.flatnonzero(~np.isfinite(values).any(axis=0))
    if len(empty):
        lost = [recording.covariate_names[dim] for dim in empty]
        recording.said.append(f"no bin has a value of {', '.join(lost)}")
    fit = [values[i.start_bin : i.stop_bin] for i in intervals if i.split in FIT_SPLITS]
    if not fit:
        raise BadInput("has no train or calibration interval to take covariate scales from")
    # From these bins alone, so that no test bin leaks into them.
    scales = covariate_scales(np.concatenate(fit), recipe.covariates.quantile)
    columns = zip(recording.covariate_names, recording.covariate_units, scales, strict=True)
    covariates = [Covariate(name=n, unit=u, scale=float(scale)) for n, u, scale in columns]
    return (values / scales).astype(np.float32), covariates


def bin_signal(signal: Signal, start_s: float, recipe: Recipe, bins: int) -> Binned:
    """A signal as means of its samples over parts of bins."""
    if signal.per_bin < 1 or signal.dtype not in ("float32", "float16"):
        raise BadInput(
            f"stream {signal.name}: {signal.per_bin} rows of a bin in {signal.dtype}; expected 1 "
            "or more, in float32 or float16"
        )
    rows, part_s = bins * signal.per_bin, recipe.bin_size_ms / 1000 / signal.per_bin
    dims = signal.values.shape[1]
    check_size(signal.name, rows, dims)
    if len(signal.labels) not in (0, dims):
        raise BadInput(f"stream {signal.name}: {len(signal.labels)} names of {dims} dimensions")
    if on_rows(signal, start_s, part_s, rows):
        values = signal.values[:rows]
    else:
        error_s = stored_error(signal.times)
        parts = start_s, part_s, rows, signal.max_gap_s, error_s
        values = bin_covariates(signal.times, signal.values, *parts)
    places = [] if signal.places is None else signal.places.tolist()
    stream = Stream(
        name=signal.name,
        rate_hz=1000 * signal.per_bin / recipe.bin_size_ms,
        dims=dims,
        dtype=signal.dtype,
        unit=signal.unit,
        labels=list(signal.labels),
        places=[place if np.isfinite(place).all() else None for place in places],
    )
    return Binned(stream, values.astype(signal.dtype, copy=False), signal.per_bin)


def on_rows(signal: Signal, start_s: float, part_s: float, rows: int) -> bool:
    """Whether samples are the rows of a stream as they are: one each, and of its type already.

    Then nothing is computed, and nothing copied: a signal may be larger than memory.
    """
    values, times = signal.values, signal.times
    if values.dtype != signal.dtype or len(values) < rows or len(times) != len(values):
        return False
    wanted = start_s + part_s * np.arange(rows)
    near = bool((np.abs(times[:rows] - wanted) < 1e-3 * part_s).all())
    blocks = range(0, rows, 1 << 16)
    return near and not any(np.isinf(values[b : min(b + (1 << 16), rows)]).any() for b in blocks)


def describe(streams: dict[str, Stream]) -> dict[str, str]:
    """What a manifest says of each stream."""
    return {
        name: DESCRIPTIONS.get(name, f"{s.dtype} (rows, dims) at {s.rate_hz:g} Hz, {s.unit}")
        for name, s in streams.items()
    }

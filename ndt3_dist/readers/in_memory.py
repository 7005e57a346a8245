"""A recording out of arrays that are in memory, checked as those of files are.

With counts it lasts as long as they do; with spike times as long as its covariates, or as long as
is said.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.column_names import chosen_names
from ndt3_dist.readers.matlab.mat_values import clock, counts, matrix, train
from ndt3_dist.readers.recording import Recording, check_lasts, check_times
from ndt3_dist.shards.manifest import Array


def recording(
    subject: str,
    session: str,
    *,
    spike_times: Sequence[np.ndarray] | None = None,
    spike_counts: np.ndarray | None = None,
    count_bin_ms: float = 20.0,
    covariates: np.ndarray | None = None,
    covariate_times: np.ndarray | None = None,
    names: Sequence[str] = (),
    unit: str | Sequence[str] = "",
    arrays: Mapping[str, int] | None = None,
    start_s: float | None = None,
    stop_s: float | None = None,
) -> Recording:
    """A recording of arrays; all times are seconds on one clock.

    Args:
        subject, session: Names that tell it from others.
        spike_times: Ascending times of each channel, each (spikes,); or else
        spike_counts: Whole counts, (bins, channels), of bins of `count_bin_ms` from `start_s` on.
        covariates: (samples, dims) or (samples,), NaN where not valid; None = none.
        covariate_times: Start of each sample, (samples,); not needed where there is a sample for
            each bin of `spike_counts`.
        names: Of the covariates; empty = dim0, dim1, ...
        unit: Of all covariates, or one for each.
        arrays: Name -> channels of each electrode array, side by side; None = one of all channels.
        start_s: First moment; None = the first covariate, else 0; with counts 0.
        stop_s: Last moment, with spike times; None = the last covariate's end, else the last spike.
    Raises:
        BadInput: Arrays do not fit each other, or hold what cannot be.
    """
    if (spike_times is None) == (spike_counts is None):
        raise BadInput(f"session {session}: expected either spike_times or spike_counts")
    if spike_counts is not None and stop_s is not None:
        raise BadInput(f"session {session}: spike_counts end where they end; leave stop_s out")
    try:
        made = Recording(str(subject), str(session), [], [], float(start_s or 0.0), 0.0)
        if spike_counts is not None:
            made.counts = counts(_array(spike_counts), "spike_counts", any_shape=True)
            made.count_bin_s = _positive(count_bin_ms, "count_bin_ms") / 1000
            made.stop_s = made.start_s + len(made.counts) * made.count_bin_s
            check_lasts(made.start_s, made.stop_s)
        if covariates is not None:
            _add_covariates(made, _array(covariates), covariate_times, names, unit)
        if spike_times is not None:
            _add_spikes(made, spike_times, start_s, stop_s)
    except BadInput as e:
        raise BadInput(f"session {session}: {e}") from e
    held = made.spike_times if made.counts is None else made.counts.T
    named = dict(arrays or {"units": len(held)})
    if sum(named.values()) != len(held):
        raise BadInput(f"session {session}: {len(held)} channels, arrays have {named}")
    made.arrays = [Array(name=name, channels=number) for name, number in named.items()]
    return made


def _add_covariates(made: Recording, values: np.ndarray, times, names, unit) -> None:
    values = matrix(values[:, None] if values.ndim == 1 else values, "covariates")
    values = values.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if times is not None:
        found, made.covariate_error_s = clock(_array(times), "covariate_times", advice="sort them")
    elif made.counts is not None and len(made.counts) == len(values):
        found = made.start_s + made.count_bin_s * np.arange(len(values))
    else:
        raise BadInput(f"{len(values)} samples of covariates without covariate_times; give these")
    if len(found) != len(values):
        raise BadInput(f"{len(values)} samples of covariates have {len(found)} times")
    dims = values.shape[1]
    numbers = tuple(f"dim{d}" for d in range(dims))
    made.covariate_times, made.covariates = found, values
    made.covariate_names = chosen_names([str(n) for n in names], numbers)
    made.covariate_unit = unit if isinstance(unit, str) else tuple(unit)
    if len(made.covariate_units) != dims:
        raise BadInput(f"{dims} covariates have {len(made.covariate_units)} units")


def _add_spikes(made: Recording, trains, start_s: float | None, stop_s: float | None) -> None:
    if not len(trains):
        raise BadInput("spike_times has no channel")
    named = ((_array(t), f"spike_times[{channel}]") for channel, t in enumerate(trains))
    made.spike_times = [train(t, name) if t.size else np.zeros(0) for t, name in named]
    made.spike_error_s = stored_error(*made.spike_times)
    times = made.covariate_times
    first, last = 0.0, max((t[-1] for t in made.spike_times if len(t)), default=0.0)
    if len(times):
        first, last = times[0], times[-1] + np.median(np.diff(times))
    made.start_s = float(first if start_s is None else start_s)
    made.stop_s = float(last if stop_s is None else stop_s)
    if not made.start_s < made.stop_s:
        raise BadInput(f"from {made.start_s:g} to {made.stop_s:g} s; expected start_s < stop_s")
    check_times(made.spike_times, made.start_s, made.stop_s)


def _array(values) -> np.ndarray:
    """What a caller gave, also a list; of another library also what numpy makes of it."""
    return np.asarray(values)


def _positive(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise BadInput(f"{name} {value}; expected a number above 0")
    return float(value)


LATER = "labels", "places"
"""Of a signal, which recordings did not have at first: without them their hash is what it was."""


def counts_in(field: dataclasses.Field, value: object) -> bool:
    """Whether a field is a part of what a recording holds."""
    there = getattr(value, field.name)
    return field.name != "said" and not (field.name in LATER and there is field.default)


def content_hash(made: Recording) -> tuple[str, int]:
    """Hex sha256 of all that a recording holds, whatever made it; and the bytes of its arrays."""
    digest, size = hashlib.sha256(), 0

    def add(value) -> None:
        nonlocal size
        if isinstance(value, np.ndarray):
            plain = np.ascontiguousarray(value)
            digest.update(f"{plain.dtype.str}{plain.shape}".encode())
            digest.update(plain.data)
            size += plain.nbytes
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)}".encode())
            for each in value:
                add(each)
        elif dataclasses.is_dataclass(value):
            add([getattr(value, f.name) for f in dataclasses.fields(value) if counts_in(f, value)])
        elif isinstance(value, Array):
            add([value.name, value.channels])
        else:
            digest.update(storage.canonical_json([type(value).__name__, value]))

    add(made)
    return digest.hexdigest(), size

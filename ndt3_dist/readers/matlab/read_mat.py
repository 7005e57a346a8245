"""Read any MATLAB file whose fields the recipe names (`mat:`).

Spikes are times, a cell for each channel, or counts per bin; covariates are a matrix with times or
a rate. Both are on one clock: with counts the recording lasts as long as they do, else as long as
the covariates. See `mat_options.py` for what can be said and `mat_file.py` for what is refused.
"""

from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.column_names import chosen_names
from ndt3_dist.readers.matlab.mat_common import (
    arrays_of,
    check_overlap,
    check_regular,
    covariate_fields,
    names_of_fields,
    refuse_unused,
    spike_trains,
    subject_and_session,
)
from ndt3_dist.readers.matlab.mat_file import MatFile, open_mat
from ndt3_dist.readers.matlab.mat_options import SECONDS, MatRecipe
from ndt3_dist.readers.matlab.mat_values import clock, counts, matrix, vector, velocity
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, check_times
from ndt3_dist.readers.repair import REMEDY, in_order, pairs

USED = {f"mat.{key}" for key in MatRecipe.model_fields} | {
    f"covariates.{key}" for key in ("path", "columns", "stamped", "derivative", "repair")
}


def read_mat(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read a MATLAB file as `recipe.mat` says. Raises BadInput naming the file and the field."""
    fields = recipe.mat
    looks_ahead = recipe.covariates.derivative  # see `velocity`
    refuse_unused(recipe, *USED, *(() if looks_ahead else ("covariates.causal",)))
    with open_mat(path) as mat:
        subject, session = subject_and_session(mat, path, recipe)
        times, values, dims, stop, error, dropped = _covariates(mat, recipe)
        recording = Recording(
            subject=subject,
            session=session,
            spike_times=[],
            arrays=[],
            start_s=float(times[0]) if len(times) else 0.0,
            stop_s=stop,
            covariate_times=times,
            covariates=values,
            covariate_names=chosen_names(recipe.covariates.names, dims),
            covariate_unit=fields.unit,
            covariate_error_s=error,
            dropped_samples=dropped,
        )
        if fields.holds == "counts":
            if not fields.bin_ms:
                raise BadInput(f"mat.bin_ms is 0; counts in {fields.spikes} need their bin size")
            recording.counts = counts(mat[fields.spikes], fields.spikes, fields.bins_along)
            recording.count_bin_s = fields.bin_ms / 1000
            recording.start_s, error = _counts_start(mat, recipe, len(recording.counts))
            recording.stop_s = recording.start_s + len(recording.counts) * recording.count_bin_s
            check_overlap(times, recording)
        else:
            scale = SECONDS[fields.spikes_in]
            trains = spike_trains(mat[fields.spikes], fields.spikes)
            recording.spike_times = [t * scale for t in trains]
            recording.spike_error_s = stored_error(*trains) * scale
            if not len(times):
                every = np.concatenate([*recording.spike_times, np.zeros(0)])
                recording.start_s = min(0.0, float(every.min(initial=0.0)))
                recording.stop_s = float(every.max(initial=0.0))
            check_times(recording.spike_times, recording.start_s, recording.stop_s)
        recording.add_error(error)
        recording.arrays = arrays_of(recording, recipe)
        return recording


def _counts_start(mat: MatFile, recipe: ReadOptions, bins: int) -> tuple[float, float]:
    """Start of the first bin in s, and its error."""
    fields = recipe.mat
    if not fields.bin_times:
        return fields.start_s, float(np.spacing(fields.start_s))
    times, error = clock(mat[fields.bin_times], fields.bin_times, SECONDS[fields.times_in])
    check_regular(fields.bin_times, times, bins, fields.bin_ms / 1000)
    return float(times[0]), error


def _covariates(mat: MatFile, recipe: ReadOptions):
    """Times (samples,), values (samples, dims) and names of the covariates, where they end in s,
    the error of their times, and how many were left out."""
    fields, said = recipe.mat, recipe.covariates
    names = covariate_fields(recipe)
    if not names:
        return np.zeros(0), np.zeros((0, 0)), (), 0.0, 0.0, 0
    if bool(fields.times) == bool(fields.rate_hz):
        raise BadInput("covariates need either mat.times or mat.rate_hz")
    each = [_samples(mat, name, fields.samples_along) for name in names]
    if len({len(v) for v in each}) > 1:
        raise BadInput(f"{', '.join(names)} have {', '.join(str(len(v)) for v in each)} samples")
    values = np.concatenate(each, axis=1)
    values[~np.isfinite(values)] = np.nan
    values *= fields.scale
    if said.columns and not 0 <= min(said.columns) <= max(said.columns) < values.shape[1]:
        raise BadInput(
            f"{', '.join(names)}: {values.shape[1]} dims; covariates.columns names "
            f"{', '.join(map(str, said.columns))} (they count from 0)"
        )
    dims = names_of_fields(names, [v.shape[1] for v in each])
    if said.columns:
        values, dims = values[:, said.columns], tuple(dims[c] for c in said.columns)
    many = len(values)
    if fields.times:
        stamps = mat[fields.times]
        if said.repair == "drop":
            stamps = vector(stamps, fields.times)
            many = max(many, len(stamps))
            stamps = stamps[: pairs(", ".join(names), len(stamps), len(values), said)]
            keep = np.flatnonzero(in_order(fields.times, stamps, 0.0, said))
            stamps, values = stamps[keep], values[keep]
        times, error = clock(stamps, fields.times, SECONDS[fields.times_in], REMEDY)
    else:
        times = fields.start_s + np.arange(len(values)) / fields.rate_hz
        error = float(np.spacing(np.abs(times).max(initial=0.0)))
    if len(times) != len(values) or len(times) < 2:
        raise BadInput(f"{', '.join(names)}: {len(values)} samples, {len(times)} times; {REMEDY}")
    period = float(np.median(np.diff(times)))
    dropped = many - len(values)
    if said.stamped == "end":
        times, error = times - period, 2 * error
    stop = float(times[-1]) + period
    if said.derivative:
        stop = float(times[-1])
        times, values = velocity(times, values, said.max_gap_ms / 1000, error)
    return times, values, dims, stop, error, dropped


def _samples(mat: MatFile, field: str, along: str) -> np.ndarray:
    """A field's covariates, (samples, dims) float64."""
    values = matrix(mat[field], field)
    values = values if along == "rows" else values.T
    if values.shape[1] > values.shape[0]:
        raise BadInput(
            f"{field} has {values.shape[0]} samples of {values.shape[1]} dims; expected more "
            "samples than dims: are its axes the other way round?"
        )
    return values.astype(np.float64)

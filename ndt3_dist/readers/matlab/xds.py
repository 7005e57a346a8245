"""Read XDS files of the Miller lab: one struct `xds` with spikes, kinematics, EMG and force.

`spikes` holds times in s, a cell for each unit, `time_frame` the time of each sample of all else.
`covariates.path` names what to take: curs_v, EMG, force, or several in a list. With
`mat.holds: counts` the file's own `spike_counts` are taken instead of times. Trials do not cut
windows: the recording goes on between them.
"""

from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.column_names import chosen_names
from ndt3_dist.readers.matlab.mat_common import (
    arrays_of,
    check_regular,
    covariate_fields,
    refuse_unused,
    spike_trains,
    subject_and_session,
)
from ndt3_dist.readers.matlab.mat_file import MatFile, open_mat
from ndt3_dist.readers.matlab.mat_values import cells, clock, counts, matrix, text, vector
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, check_times

UNITS = {"curs_p": "cm", "curs_v": "cm/s", "curs_a": "cm/s^2"}
NAMES = {
    "curs_p": ("px", "py"),
    "curs_v": ("x", "y"),
    "curs_a": ("ax", "ay"),
    "force": ("fx", "fy"),
}


def read_xds(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read an XDS file. Raises BadInput naming the file and the field."""
    said = (f"covariates.{key}" for key in ("path", "stamped", "causal"))
    refuse_unused(recipe, *said, "mat.holds", "mat.arrays")
    with open_mat(path) as mat:
        subject, session = subject_and_session(mat, path, recipe)
        times, error = clock(mat["xds.time_frame"], "xds.time_frame")
        period = float(np.median(np.diff(times)))
        bin_s = _bin_width(mat, period)
        if recipe.covariates.stamped == "end":
            times, error = times - period, 2 * error
        values, names, units = _covariates(mat, covariate_fields(recipe), len(times))
        recording = Recording(
            subject=subject,
            session=session,
            spike_times=[],
            arrays=[],
            start_s=float(times[0]),
            stop_s=float(times[-1]) + period,
            covariate_times=times if names else np.zeros(0),
            covariates=values,
            covariate_names=chosen_names(recipe.covariates.names, names),
            covariate_unit=units,
        )
        recording.add_error(error)
        if recipe.mat.holds == "counts":
            recording.counts = counts(mat["xds.spike_counts"], "xds.spike_counts")
            recording.count_bin_s = bin_s
            check_regular("xds.time_frame", times, len(recording.counts), bin_s)
            recording.stop_s = recording.start_s + len(recording.counts) * bin_s
        else:
            recording.spike_times = spike_trains(mat["xds.spikes"], "xds.spikes")
            recording.spike_error_s = max(error, stored_error(*recording.spike_times))
            check_times(recording.spike_times, recording.start_s, recording.stop_s)
        recording.arrays = arrays_of(recording, recipe)
        return recording


def _bin_width(mat: MatFile, period: float) -> float:
    """Bin size in s, which has to be that of the clock."""
    width = vector(mat["xds.bin_width"], "xds.bin_width")
    if len(width) != 1 or not abs(width[0] / period - 1) < 0.01:
        raise BadInput(
            f"xds.bin_width is {', '.join(f'{w:g}' for w in width[:5])} s; xds.time_frame has a "
            f"sample every {period:g} s"
        )
    return float(width[0])


def _covariates(mat: MatFile, parts: list[str], samples: int):
    """Values (samples, dims), names and units of fields such as curs_v and EMG, side by side."""
    values, names, units = [np.zeros((samples if parts else 0, 0))], (), ()
    for part in parts:
        field = f"xds.{part}"
        found = matrix(mat[field], field).astype(np.float64)
        if len(found) != samples:
            raise BadInput(f"{field} has shape {found.shape}; xds.time_frame has {samples} samples")
        names += _names(mat, part, found.shape[1])
        units += (UNITS.get(part, "a.u."),) * found.shape[1]
        values.append(found)
    return np.concatenate(values, axis=1), names, units


def _names(mat: MatFile, part: str, dims: int) -> tuple[str, ...]:
    named = mat.get(f"xds.{part}_names")
    if named is not None:
        names = tuple(text(n, f"xds.{part}_names") for n in cells(named, f"xds.{part}_names").flat)
        if len(names) != dims:
            raise BadInput(f"xds.{part}_names has {len(names)} names; xds.{part} has {dims} dims")
        return names
    known = NAMES.get(part, ())
    return known if len(known) == dims else tuple(f"{part}{d + 1}" for d in range(dims))

"""Read random target reaching of O'Doherty, Makin and Sabes (Zenodo 3854034, MATLAB v7.3).

`spikes` is a cell array (channels, units) of times in s; the first unit of a channel is its
unsorted crossings (hash). All units of a channel are summed, as NDT3 does, and every channel keeps
its place even without one spike. `finger_pos` is in cm with columns z, -x, -y; its planar part
becomes velocity in m/s in the direction of the screen's x and y. Both stay on the clock of `t`:
nothing is cut from one alone.
"""

from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.column_names import chosen_names
from ndt3_dist.readers.matlab.mat_common import (
    refuse_unused,
    spike_trains,
    subject_and_session,
)
from ndt3_dist.readers.matlab.mat_file import MatFile, open_mat
from ndt3_dist.readers.matlab.mat_values import (
    cells,
    clock,
    element,
    matrix,
    velocity,
)
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, check_times
from ndt3_dist.shards.manifest import Array

ARRAYS = (("M1", 96), ("S1", 96))
CM = 0.01


def read_rtt(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read a session; its name (indy_20160407_02.mat) says subject and session."""
    refuse_unused(recipe)
    with open_mat(path) as mat:
        times, error = clock(mat["t"], "t")
        position = matrix(mat["finger_pos"], "finger_pos").astype(np.float64)
        if len(position) != len(times) or position.shape[1] not in (3, 6):
            raise BadInput(
                f"finger_pos has shape {position.shape}; expected ({len(times)}, 3 or 6) by t"
            )
        planar = -CM * position[:, 1:3]  # (samples, 2): x, y in m
        stop = float(times[-1])
        times, rates = velocity(times, planar, recipe.covariates.max_gap_ms / 1000, error)
        spikes, arrays = _spikes(mat)
        check_times(spikes, float(times[0]), stop)
        subject, session = subject_and_session(mat, path, recipe)
        return Recording(
            subject=subject,
            session=session,
            spike_times=spikes,
            arrays=arrays,
            start_s=float(times[0]),
            stop_s=stop,
            covariate_times=times,
            covariates=rates,
            covariate_names=chosen_names(recipe.covariates.names, ("x", "y")),
            covariate_unit="m/s",
            spike_error_s=max(stored_error(*spikes), error),
            covariate_error_s=error,
        )


def _spikes(mat: MatFile) -> tuple[list[np.ndarray], list[Array]]:
    """Sorted times of each channel, all its units together."""
    units = cells(mat["spikes"], "spikes")  # (channels, units)
    if units.ndim != 2 or len(units) not in (96, 192):
        raise BadInput(f"spikes has shape {units.shape}; expected 96 (M1) or 192 (M1, S1) channels")
    arrays = [Array(name=name, channels=n) for name, n in ARRAYS[: len(units) // 96]]
    _check_names(mat, arrays)
    return spike_trains(units, "spikes"), arrays


def _check_names(mat: MatFile, arrays: list[Array]) -> None:
    """Refuse channels in another order than ours, where the file names them (M1 001)."""
    names = mat.get("chan_names")
    if names is None:
        return
    names = [str(n) for n in cells(names, "chan_names").flat]
    expected = [a.name for a in arrays for _ in range(a.channels)]
    for number, name in enumerate(names):
        known = name[:2].upper() in ("M1", "S1")
        if known and (number >= len(expected) or name[:2].upper() != expected[number]):
            raise BadInput(
                f"{element('chan_names', (number, 0))} is {name!r}; expected M1, then S1, 96 each"
            )

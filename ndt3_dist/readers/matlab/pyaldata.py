"""Read PyalData files: a struct array `trial_data`, an element for each trial, binned already.

Fields that end in _spikes, such as M1_spikes, are arrays (bins x units). Trials have no time of
their own, so they are laid end to end; each is a span that no window leaves. A trial begins on a
bin of the recipe: what is left at the end of the one before, less than a bin, is dropped from
spikes and covariates alike.
"""

from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.column_names import chosen_names
from ndt3_dist.readers.matlab.mat_common import (
    covariate_fields,
    names_of_fields,
    refuse_unused,
    subject_and_session,
)
from ndt3_dist.readers.matlab.mat_file import open_mat
from ndt3_dist.readers.matlab.mat_values import counts, matrix, vector
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import Array

NAME = "trial_data"


def read_pyaldata(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read a PyalData file; `covariates.path` names a field such as vel, or several."""
    refuse_unused(recipe, "covariates.path", "covariates.causal", "mat.unit")
    with open_mat(path) as mat:
        subject, session = subject_and_session(mat, path, recipe)
        trials = _trials(mat[NAME])
        bin_s = _bin_size(trials)
        names = sorted(n for n in trials[0] if n.endswith("_spikes"))
        if not names:
            raise BadInput(f"{NAME} has no field M1_spikes or other _spikes")
        factor = max(round(recipe.bin_size_ms / 1000 / bin_s), 1)
        spikes, values, lengths = [], [], []
        for number, trial in enumerate(trials):
            where = f"{NAME}({number + 1})"
            arrays = [_counts(trial, n, where) for n in names]
            behaviour = _behaviour(trial, covariate_fields(recipe), where, len(arrays[0]))
            if any(len(a) != len(arrays[0]) for a in arrays):
                raise BadInput(f"{where}: {', '.join(names)} differ in their bins")
            if spikes and _widths([*arrays, behaviour]) != _widths([*spikes[0], values[0]]):
                raise BadInput(f"{where} has other units or dims than {NAME}(1)")
            length = len(arrays[0]) // factor * factor
            spikes.append([a[:length] for a in arrays])
            values.append(behaviour[:length])
            lengths.append(length)
        fields = covariate_fields(recipe)
        widths = [matrix(trials[0][f], f).shape[1] for f in fields]
        edges = np.concatenate([[0], np.cumsum(lengths)]) * bin_s  # (trials + 1,)
        samples = np.concatenate(values)
        dims = samples.shape[1]
        return Recording(
            subject=subject,
            session=session,
            spike_times=[],
            arrays=[
                Array(name=name.removesuffix("_spikes"), channels=first.shape[1])
                for name, first in zip(names, spikes[0], strict=True)
                if first.shape[1]
            ],
            start_s=0.0,
            stop_s=float(edges[-1]),
            covariate_times=np.arange(len(samples) if dims else 0) * bin_s,
            covariates=samples if dims else np.zeros((0, 0)),
            covariate_names=chosen_names(recipe.covariates.names, names_of_fields(fields, widths)),
            covariate_unit=recipe.mat.unit,
            counts=np.concatenate([np.concatenate(trial, axis=1) for trial in spikes]),
            count_bin_s=bin_s,
            spans=np.column_stack([edges[:-1], edges[1:]]),
        )


def _trials(value) -> list[dict]:
    """The elements of the struct array; one trial alone is a struct."""
    trials: list = [value] if isinstance(value, dict) else list(getattr(value, "flat", ()))
    if not trials or not all(isinstance(t, dict) for t in trials):
        raise BadInput(f"{NAME} is no struct array; expected an element for each trial")
    return trials


def _bin_size(trials: list[dict]) -> float:
    """Bin size of all trials in s."""
    sizes = [float(v) for t in trials for v in vector(_field(t, "bin_size", NAME), "bin_size")]
    if not sizes or len(set(sizes)) > 1 or not 0 < sizes[0] < 1:
        raise BadInput(f"{NAME}.bin_size is {sorted(set(sizes))[:5]}; expected one, in s")
    return sizes[0]


def _field(trial: dict, name: str, where: str):
    if name not in trial:
        raise BadInput(f"has no field {where}.{name}: {where} has {', '.join(sorted(trial)[:20])}")
    return trial[name]


def _counts(trial: dict, name: str, where: str) -> np.ndarray:
    """A trial's counts (bins, units); short trials may have fewer bins than units."""
    return counts(_field(trial, name, where), f"{where}.{name}", any_shape=True)


def _behaviour(trial: dict, fields: list[str], where: str, bins: int) -> np.ndarray:
    """A trial's covariates, (bins, dims)."""
    each = [np.zeros((bins, 0))]
    for field in fields:
        values = matrix(_field(trial, field, where), f"{where}.{field}").astype(np.float64)
        if len(values) != bins:
            raise BadInput(f"{where}.{field} has shape {values.shape}; its spikes have {bins} bins")
        each.append(values)
    return np.concatenate(each, axis=1)


def _widths(arrays: list[np.ndarray]) -> list[int]:
    return [a.shape[1] for a in arrays]

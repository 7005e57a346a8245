"""What the readers of MATLAB files have in common: names, channels, clocks."""

import re
from pathlib import Path

import numpy as np

from ndt3_dist.config import Section
from ndt3_dist.errors import BadInput
from ndt3_dist.readers.column_names import column_names
from ndt3_dist.readers.matlab.mat_file import MatFile
from ndt3_dist.readers.matlab.mat_values import cells, element, text, train
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import Array

ALWAYS = {f"covariates.{key}" for key in ("quantile", "max_gap_ms", "names", "resample")} | {
    f"mat.{key}" for key in ("subject", "session", "file_name")
}


def refuse_unused(recipe: ReadOptions, *used: str) -> None:
    """Refuse what a recipe says in vain: keys that this reader does not look at."""
    for section in ("spikes", "covariates", "validity", "mat"):
        part: Section = getattr(recipe, section)
        for key, default in type(part).model_fields.items():
            name = f"{section}.{key}"
            said = getattr(part, key) != default.default
            if said and name not in ALWAYS and name not in used:
                raise BadInput(f"reader {recipe.reader} does not use {name}; leave it out")


def covariate_fields(recipe: ReadOptions) -> list[str]:
    """The fields of `covariates.path`, none where it is empty."""
    path = recipe.covariates.path
    return ([path] if path else []) if isinstance(path, str) else list(path)


def spike_trains(value, field: str) -> list[np.ndarray]:
    """Times of each channel, as the file has them.

    A cell vector has a channel in each cell; a cell matrix has channels in its rows, and their
    units, which are summed, in its columns.
    """
    units = cells(value, field)
    if units.ndim != 2 or not units.size:
        raise BadInput(f"{field} has shape {units.shape}; expected channels, or channels x units")
    channels, trains = units if min(units.shape) > 1 else units.reshape(-1, 1), []
    for channel, row in enumerate(channels):
        each = [train(t, element(field, (channel, unit))) for unit, t in enumerate(row)]
        trains.append(np.sort(np.concatenate(each)))
    if not any(len(t) for t in trains):
        raise BadInput(f"{field} has zero spikes in all its channels")
    return trains


def arrays_of(recording: Recording, recipe: ReadOptions) -> list[Array]:
    """The arrays that the recipe names; else one."""
    channels = len(recording.spike_times)
    if recording.counts is not None:
        channels = recording.counts.shape[1]
    named = recipe.mat.arrays or {"units": channels}
    if sum(named.values()) != channels:
        raise BadInput(
            f"{recipe.mat.spikes} has {channels} channels; mat.arrays has {sum(named.values())}"
        )
    return [Array(name=name, channels=number) for name, number in named.items()]


def subject_and_session(mat: MatFile, path: str | Path, recipe: ReadOptions) -> tuple[str, str]:
    """Both from the fields that the recipe names, else from the file's name, else its folder."""
    path, fields = Path(path), recipe.mat
    found = re.fullmatch(fields.file_name, path.stem)
    subject = (found and found["subject"]) or path.parent.name or "unknown"
    session = (found and found["session"]) or path.stem
    if fields.subject:
        subject = text(mat[fields.subject], fields.subject)
    if fields.session:
        session = text(mat[fields.session], fields.session)
    return subject, session


def names_of_fields(fields: list[str], dims: list[int]) -> tuple[str, ...]:
    """Names of the columns of fields that lie side by side, such as kin.vel."""
    found: tuple[str, ...] = ()
    for field, number in zip(fields, dims, strict=True):
        holder, _, name = field.rpartition(".")
        found += column_names(name, number, holder, among_others=len(fields) > 1)
    return found


def check_overlap(times: np.ndarray, recording: Recording) -> None:
    """Refuse covariates of which most lie outside the counts: they are on another clock."""
    inside = (times >= recording.start_s) & (times < recording.stop_s)
    if len(times) and inside.mean() < 0.5:
        raise BadInput(
            f"{len(times) - int(inside.sum())} of {len(times)} covariate samples lie outside the "
            f"counts ({recording.start_s:.3f} to {recording.stop_s:.3f} s); expected one clock"
        )


def check_regular(field: str, times: np.ndarray, bins: int, bin_s: float) -> None:
    """Refuse times of bins that have gaps, or another length than the counts."""
    off = np.abs(times - times[0] - np.arange(len(times)) * bin_s)
    if len(times) != bins or off.max() > bin_s / 2:
        raise BadInput(
            f"{field}: {len(times)} times up to {off.max():.3f} s from a regular clock; expected "
            f"{bins} times, one every {bin_s * 1000:g} ms"
        )

"""Read one NWB recording: spikes by channel, covariates on their own clock, when both are valid.

Whatever is wrong with a file is said in one line that names the file, the unit or series, what was
found and what was expected.
"""

import re
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.nwb.nwb_counts import read_counts
from ndt3_dist.readers.nwb.nwb_covariates import derivative, mask_outside, read_covariates
from ndt3_dist.readers.nwb.nwb_file import NwbFile, open_nwb
from ndt3_dist.readers.nwb.nwb_series import Series
from ndt3_dist.readers.nwb.nwb_spikes import read_events
from ndt3_dist.readers.nwb.nwb_units import read_units
from ndt3_dist.readers.nwb.nwb_valid import read_validity
from ndt3_dist.readers.nwb.nwb_witness import check_trials, extent, is_part, series, tables
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, Samples, check_lasts, check_times
from ndt3_dist.readers.spans import intersect

TRUST = (
    ", or spikes.trust_clock=true where behaviour was recorded for a part of the session (and "
    "covariates.outside=keep to keep the rest)"
)


def read_nwb(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read an NWB file as a recipe says. Raises BadInput naming the file."""
    path = Path(path)
    with open_nwb(path) as nwb:
        return _take(nwb, path, recipe)


def _take(nwb: NwbFile, path: Path, recipe: ReadOptions) -> Recording:
    subject = nwb.text("general/subject/subject_id") or _entity(path, "sub") or path.parent.name
    own = nwb.text("general/session_id") if recipe.session_from == "content" else None
    session = own or _entity(path, "ses") or _stem(path)
    found = Recording(subject, session, [], [], 0.0, 0.0)
    read = _take_counts if recipe.spikes.kind == "counts" else _take_spikes
    start_error, ends_s = read(found, nwb, recipe)
    raw, samples = [], []
    if recipe.covariates.path:
        raw, samples = read_covariates(nwb, recipe, ends_s)
    if len(raw) > 1 and recipe.validity.mask and recipe.validity.clock == "covariates":
        raise BadInput(
            f"validity.clock=covariates: {len(raw)} of the covariates have times of their own; say "
            "validity.clock=own, or prepare them apart"
        )
    valid, valid_error = read_validity(nwb, recipe, raw[0] if raw else None, ends_s)
    if raw:
        masks = valid if recipe.validity.outside == "mask" else None
        _take_covariates(
            found, recipe, raw, [mask_outside(s, masks, max(valid_error, s.error)) for s in samples]
        )
        if found.counts is None:
            start_error = max(s.error for s in raw)
    if recipe.validity.outside == "cut":
        found.span_error_s = max(found.span_error_s, valid_error)
        found.spans = intersect(found.spans, valid)
        if found.spans is not None and not len(found.spans):
            raise BadInput("is observed nowhere where it is valid")
    found.add_error(start_error)
    _check_clocks(found, nwb, recipe)
    return found


def _take_counts(found: Recording, nwb: NwbFile, recipe: ReadOptions) -> tuple[float, float]:
    """Take binned spikes; the error of the start, and the end, in s."""
    counts = read_counts(nwb, recipe)
    found.counts, found.count_bin_s, found.arrays = counts.counts, counts.bin_s, counts.arrays
    found.spans = counts.spans
    found.start_s = counts.start
    found.stop_s = counts.start + len(counts.counts) * counts.bin_s
    return counts.error, max(found.stop_s, 0.0)


def _take_spikes(found: Recording, nwb: NwbFile, recipe: ReadOptions) -> tuple[float, float]:
    """Take spike times; the error of the start, and the time at which all known of ends, in s."""
    spikes = (read_units if recipe.spikes.kind == "units" else read_events)(nwb, recipe.spikes)
    known = tables(nwb)
    others = [] if recipe.covariates.path else series(nwb)  # those are held against covariates
    found.said += spikes.said + check_trials(spikes.times, [*known, *others], recipe)
    found.spike_times, found.arrays, found.spans = spikes.times, spikes.arrays, spikes.observed
    found.spike_error_s, found.span_error_s = spikes.error, spikes.observed_error
    lasts = [float(t[-1]) for t in spikes.times if len(t)]
    edges = np.array([0.0, *(float(t[0]) for t in spikes.times if len(t)), *lasts])
    edges = edges if found.spans is None else found.spans
    found.start_s, found.stop_s = float(edges.min()), float(edges.max())
    ends = max([found.stop_s, 0.0, *lasts, *(table.stop for table in known)])
    return max(spikes.error, spikes.observed_error), ends


def _take_covariates(
    found: Recording, recipe: ReadOptions, raw: list[Series], samples: list[Series]
) -> None:
    """Take covariates, and the extent of a recording that they decide.

    Args:
        raw: As the file has them.
        samples: Those that are kept, NaN where not valid.
    """
    if recipe.covariates.derivative:
        gap_s, causal = recipe.covariates.max_gap_ms / 1000, recipe.covariates.causal
        samples = [derivative(s, gap_s, causal) for s in samples]
    found.covariate_times, found.covariates = samples[0].times, samples[0].values
    found.more_covariates = [Samples(s.times, s.values) for s in samples[1:]]
    found.covariate_names = tuple(name for s in samples for name in s.names)
    units = tuple(unit for s in samples for unit in s.units)
    found.covariate_unit = units[0] if len(set(units)) == 1 else units
    found.covariate_error_s = max(s.error for s in raw)
    found.dropped_samples = sum(s.left_out for s in raw)
    found.said += [text for s in raw for text in s.said]
    if found.counts is not None:
        return
    start = min(float(s.times.min()) for s in raw)
    stop = max(float(s.times.max()) + s.period for s in raw)
    if recipe.covariates.outside == "keep":
        bin_s = recipe.bin_size_ms / 1000  # bins stay where the samples put them
        start -= bin_s * max(np.ceil((start - found.start_s) / bin_s), 0)
        stop = max(stop, found.stop_s)
    found.start_s, found.stop_s = float(start), float(stop)


def _check_clocks(found: Recording, nwb: NwbFile, recipe: ReadOptions) -> None:
    """Refuse spikes on another clock than the covariates'."""
    edges = found.start_s, found.stop_s
    try:
        check_times(found.spike_times, *edges, remedy=TRUST if len(found.covariate_times) else "")
    except BadInput:
        check_lasts(*edges)
        if not (len(found.covariate_times) and is_part(nwb, found.spike_times, *edges, recipe)):
            raise
        check_lasts(*extent(found.spike_times))


def _stem(path: Path) -> str:
    """A file's name less .nwb, or less the .nwb.zarr of a folder."""
    return path.stem.removesuffix(".nwb") if path.suffix == ".zarr" else path.stem


def _entity(path: Path, name: str) -> str | None:
    """The value of a BIDS-like entity in a file name: sub-A_ses-01.nwb has sub A, ses 01."""
    found = re.search(rf"(?:^|_){name}-([^_.]+)", path.stem)
    return found.group(1) if found else None

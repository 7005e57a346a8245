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
from ndt3_dist.readers.nwb.nwb_spikes import read_events, read_units
from ndt3_dist.readers.nwb.nwb_valid import read_validity
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, check_times
from ndt3_dist.readers.spans import intersect


def read_nwb(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read an NWB file as a recipe says. Raises BadInput naming the file."""
    path = Path(path)
    with open_nwb(path) as nwb:
        return _take(nwb, path, recipe)


def _take(nwb: NwbFile, path: Path, recipe: ReadOptions) -> Recording:
    subject = nwb.text("general/subject/subject_id") or _entity(path, "sub") or path.parent.name
    session = nwb.text("general/session_id") or _entity(path, "ses") or _stem(path)
    found = Recording(subject, session, [], [], 0.0, 0.0)
    if recipe.spikes.kind == "counts":
        counts = read_counts(nwb, recipe)
        found.counts, found.count_bin_s, found.arrays = counts.counts, counts.bin_s, counts.arrays
        found.spans, start_error = counts.spans, counts.error
        edges = np.array([counts.start, counts.start + len(counts.counts) * counts.bin_s])
    else:
        spikes = (read_units if recipe.spikes.kind == "units" else read_events)(nwb, recipe.spikes)
        found.spike_times, found.arrays, found.spans = spikes.times, spikes.arrays, spikes.observed
        found.spike_error_s, found.span_error_s = spikes.error, spikes.observed_error
        start_error = max(spikes.error, spikes.observed_error)
        firsts = [0.0, *(float(t[0]) for t in spikes.times if len(t))]
        lasts = [float(t[-1]) for t in spikes.times if len(t)]
        edges = np.array([*firsts, *lasts]) if found.spans is None else found.spans
    found.start_s, found.stop_s = float(edges.min()), float(edges.max())
    ends_s = max([found.stop_s, 0.0] + [float(t[-1]) for t in found.spike_times if len(t)])
    raw = samples = None
    if recipe.covariates.path:
        raw, samples = read_covariates(nwb, recipe, ends_s)
    validity, (valid, valid_error) = recipe.validity, read_validity(nwb, recipe, raw, ends_s)
    if raw and samples:
        masks, found.covariate_error_s = valid if validity.outside == "mask" else None, raw.error
        samples = mask_outside(samples, masks, max(valid_error, raw.error))
        if recipe.covariates.derivative:
            samples = derivative(samples, recipe.covariates.max_gap_ms / 1000)
        found.covariate_times, found.covariates = samples.times, samples.values
        found.covariate_names, units = samples.names, samples.units
        found.dropped_samples = raw.left_out
        found.covariate_unit = units[0] if len(set(units)) == 1 else units
        if found.counts is None:
            start_error = raw.error
            found.start_s = float(raw.times.min())
            found.stop_s = float(raw.times.max()) + raw.period
    if validity.outside == "cut":
        found.span_error_s = max(found.span_error_s, valid_error)
        found.spans = intersect(found.spans, valid)
        if found.spans is not None and not len(found.spans):
            raise BadInput("is observed nowhere where it is valid")
    found.add_error(start_error)
    check_times(found.spike_times, found.start_s, found.stop_s)
    return found


def _stem(path: Path) -> str:
    """A file's name less .nwb, or less the .nwb.zarr of a folder."""
    return path.stem.removesuffix(".nwb") if path.suffix == ".zarr" else path.stem


def _entity(path: Path, name: str) -> str | None:
    """The value of a BIDS-like entity in a file name: sub-A_ses-01.nwb has sub A, ses 01."""
    found = re.search(rf"(?:^|_){name}-([^_.]+)", path.stem)
    return found.group(1) if found else None

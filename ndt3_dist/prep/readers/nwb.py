"""Read one NWB recording: spikes by channel, covariates on their own clock, when both are valid.

Whatever is wrong with a file is said in one line that names the file, the unit or series, what was
found and what was expected. External links are refused: a recording may not make us read other
files.
"""

import re
import warnings
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.readers.nwb_counts import read_counts
from ndt3_dist.prep.readers.nwb_covariates import derivative, mask_outside, read_covariates
from ndt3_dist.prep.readers.nwb_spikes import read_events, read_units
from ndt3_dist.prep.readers.nwb_valid import read_validity
from ndt3_dist.prep.readers.recording import Recording, check_times
from ndt3_dist.prep.readers.spans import intersect
from ndt3_dist.prep.recipe import Recipe


def read_nwb(path: str | Path, recipe: Recipe) -> Recording:
    """Read an NWB file as a recipe says. Raises BadInput naming the file."""
    import h5py

    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise BadInput(f"{path}: not an NWB file (not HDF5); expected NWB 2 recordings (.nwb)")
    try:
        refuse_external(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cached-namespace notices of older files
            import pynwb

            with pynwb.NWBHDF5IO(path=str(path), mode="r", load_namespaces=True) as io:  # pyright: ignore
                return _take(io.read(), path, recipe)
    except BadInput as e:
        message = str(e)
        raise BadInput(message if str(path) in message else f"{path}: {message}") from e
    except Exception as e:
        # pynwb and h5py raise anything from KeyError to RuntimeError on a damaged file.
        reason = " ".join(str(e).split())[:200]
        raise BadInput(f"{path}: not a readable NWB file ({type(e).__name__}: {reason})") from e


def refuse_external(path: Path) -> None:
    """Raise BadInput where an HDF5 file points outside itself."""
    import h5py

    seen = set()  # hard links may lead to one group by many ways, or in a circle

    def visit(group, where: str) -> None:
        if group.id in seen:
            return
        seen.add(group.id)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise BadInput(f"{where}{name} is an external link to another file; refused")
            if isinstance(link, h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    visit(item, f"{where}{name}/")
                elif item.external or is_mosaic_of_others(item):
                    raise BadInput(f"{where}{name} keeps its data in another file; refused")

    with h5py.File(path, "r") as f:
        visit(f, "")


def is_mosaic_of_others(dataset) -> bool:
    """Whether an HDF5 dataset is virtual and shows parts of other files."""
    return dataset.is_virtual and any(s.file_name != "." for s in dataset.virtual_sources())


def _take(nwb, path: Path, recipe: Recipe) -> Recording:
    subject = getattr(nwb.subject, "subject_id", None) or _entity(path, "sub") or path.parent.name
    session = nwb.session_id or _entity(path, "ses") or path.stem
    found = Recording(str(subject), str(session), [], [], 0.0, 0.0)
    if recipe.spikes.kind == "counts":
        counts = read_counts(nwb, recipe)
        found.counts, found.count_bin_s, found.arrays = counts.counts, counts.bin_s, counts.arrays
        found.spans = counts.spans
        edges = np.array([counts.start, counts.start + len(counts.counts) * counts.bin_s])
    else:
        spikes = (read_units if recipe.spikes.kind == "units" else read_events)(nwb, recipe.spikes)
        found.spike_times, found.arrays, found.spans = spikes.times, spikes.arrays, spikes.observed
        edges = np.concatenate([[0.0], *spikes.times] if found.spans is None else found.spans)
    found.start_s, found.stop_s = float(edges.min()), float(edges.max())
    ends_s = max(found.stop_s, *(float(t[-1]) for t in found.spike_times if len(t)), 0.0)
    raw = samples = None
    if recipe.covariates.path:
        raw, samples = read_covariates(nwb, recipe, ends_s)
    validity, valid = recipe.validity, read_validity(nwb, recipe, raw, ends_s)
    if raw and samples:
        samples = mask_outside(samples, valid if validity.outside == "mask" else None)
        if recipe.covariates.derivative:
            samples = derivative(samples, recipe.covariates.max_gap_ms / 1000)
        found.covariate_times, found.covariates = samples.times, samples.values
        found.covariate_names, units = samples.names, samples.units
        found.covariate_unit = units[0] if len(set(units)) == 1 else units
        if found.counts is None:
            found.start_s = float(raw.times.min())
            found.stop_s = float(raw.times.max()) + raw.period
    if validity.outside == "cut":
        found.spans = intersect(found.spans, valid)
        if found.spans is not None and not len(found.spans):
            raise BadInput("is observed nowhere where it is valid")
    check_times(found.spike_times, found.start_s, found.stop_s)
    return found


def _entity(path: Path, name: str) -> str | None:
    """The value of a BIDS-like entity in a file name: sub-A_ses-01.nwb has sub A, ses 01."""
    found = re.search(rf"(?:^|_){name}-([^_.]+)", path.stem)
    return found.group(1) if found else None

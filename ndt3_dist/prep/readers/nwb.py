"""Read one NWB recording: spike times by channel, covariates on their own clock.

Whatever is wrong with a file is said in one line that names the file, the unit or series, what was
found and what was expected. External links are refused: a recording may not make us read other
files.
"""

import re
import warnings
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.readers.recording import COVARIATE_NAMES, Recording, check_times
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.shards.format import Array


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

    def visit(group, where: str) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise BadInput(f"{where}{name} is an external link to {link.filename}; refused")
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
    times, values, names, unit, period = _covariates(nwb, recipe)
    spike_times, arrays, observed = _spikes(nwb, recipe)
    if len(times):
        start, stop = float(times[0]), float(times[-1]) + period
    elif observed is not None:
        start, stop = observed
    else:
        every = np.concatenate([*spike_times, np.zeros(0)])
        start = min(0.0, float(every.min(initial=0.0)))
        stop = float(every.max(initial=0.0))
    check_times(spike_times, start, stop)
    return Recording(
        str(subject), str(session), spike_times, arrays, start, stop, times, values, names, unit
    )


def _entity(path: Path, name: str) -> str | None:
    """The value of a BIDS-like entity in a file name: sub-A_ses-01.nwb has sub A, ses 01."""
    found = re.search(rf"(?:^|_){name}-([^_.]+)", path.stem)
    return found.group(1) if found else None


def _spikes(nwb, recipe: Recipe):
    """Spike times of each channel, the arrays, and the observed span where the file states it."""
    units = nwb.units
    if units is None or "spike_times" not in units.colnames or not len(units):
        raise BadInput("has no units with spike times; expected a units table")
    unit_times = [np.asarray(units["spike_times"][i], np.float64) for i in range(len(units))]
    for i, t in enumerate(unit_times):
        name = f"unit {units.id[i]}"
        if not np.isfinite(t).all():
            raise BadInput(f"{name} has {int((~np.isfinite(t)).sum())} spike times that are NaN")
        if (np.diff(t) < 0).any():
            at = int(np.flatnonzero(np.diff(t) < 0)[0])
            raise BadInput(
                f"{name} has unsorted spike times ({t[at]:.4f} s before {t[at + 1]:.4f} s); "
                "sort them in the file"
            )
    if not sum(len(t) for t in unit_times):
        raise BadInput("has zero spikes in all its units")
    observed = None
    if "obs_intervals" in units.colnames:
        spans = [np.asarray(units["obs_intervals"][i]) for i in range(len(units))]
        spans = [s for s in spans if s.size]
        if spans:
            observed = float(min(s.min() for s in spans)), float(max(s.max() for s in spans))
    by_electrode = recipe.spikes.channels == "electrode" or (
        recipe.spikes.channels == "auto" and "electrodes" in units.colnames
    )
    if not by_electrode:
        return unit_times, [Array(name="units", channels=len(unit_times))], observed
    if "electrodes" not in units.colnames:
        raise BadInput("its units have no electrodes; use spikes.channels=unit")
    return *_sum_by_electrode(nwb, unit_times), observed


def _sum_by_electrode(nwb, unit_times: list[np.ndarray]):
    """Channels are the electrodes of the file, array after array: a silent one keeps its place."""
    table = nwb.electrodes
    groups = [str(g) for g in table["group_name"][:]]
    order = sorted(range(len(table)), key=lambda row: (groups.index(groups[row]), row))
    channel_of = {row: channel for channel, row in enumerate(order)}
    per_channel: list[list[np.ndarray]] = [[] for _ in order]
    rows_of = nwb.units["electrodes"]
    ragged = hasattr(rows_of, "target")  # several electrodes a unit, through an index column
    for unit, t in enumerate(unit_times):
        rows = rows_of.target.data if ragged else rows_of.data
        if ragged:
            begin = int(rows_of.data[unit - 1]) if unit else 0
            rows = np.asarray(rows[begin : int(rows_of.data[unit])])
        else:
            rows = np.atleast_1d(rows[unit])
        if not len(rows) or not 0 <= int(rows[0]) < len(table):
            raise BadInput(f"unit {unit} names no electrode of the electrodes table")
        per_channel[channel_of[int(rows[0])]].append(t)
    times = [np.sort(np.concatenate([*c, np.zeros(0)])) for c in per_channel]
    names = list(dict.fromkeys(groups[row] for row in order))
    return times, [Array(name=n, channels=groups.count(n)) for n in names]


def _covariates(nwb, recipe: Recipe):
    """Times, values, names, unit and sample period of the recipe's covariates."""
    if not recipe.covariates.path:
        return np.zeros(0), np.zeros((0, 0)), (), "", 0.0
    series = find_series(nwb, recipe.covariates.path)
    values = np.asarray(series.data, np.float64)
    values = values.reshape(len(values), -1) * float(series.conversion or 1.0)
    values += float(getattr(series, "offset", None) or 0.0)
    if not len(values):
        raise BadInput(f"{recipe.covariates.path} has no samples")
    if series.timestamps is not None:
        times = np.asarray(series.timestamps, np.float64)
        period = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    else:
        period = 1.0 / float(series.rate)
        times = float(series.starting_time or 0.0) + np.arange(len(values)) * period
    if len(times) != len(values):
        raise BadInput(f"{recipe.covariates.path}: {len(times)} times, {len(values)} samples")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise BadInput(f"{recipe.covariates.path}: timestamps are not strictly ascending")
    if recipe.covariates.stamped == "end":
        times = times - period
    names = tuple(recipe.covariates.names) or COVARIATE_NAMES[: values.shape[1]]
    if len(names) != values.shape[1]:
        names = tuple(f"d{d + 1}" for d in range(values.shape[1]))
    return times, values, names, str(series.unit), period


def find_series(nwb, path: str):
    """The TimeSeries at a path such as processing/behavior/Velocity/cursor_vel."""
    item, walked = nwb, []
    for part in path.strip("/").split("/"):
        known = _children(item)
        if part not in known:
            raise BadInput(
                f"no covariates at {path}: {'/'.join(walked) or 'the file'} has "
                f"{', '.join(sorted(known)) or 'nothing'}"
            )
        item = known[part]
        walked.append(part)
    if not hasattr(item, "data") or not hasattr(item, "timestamps"):
        raise BadInput(f"{path} is a {type(item).__name__}; expected a TimeSeries")
    return item


def _children(item) -> dict:
    """Named members of an NWB container, or of the file itself."""
    if hasattr(item, "processing"):
        return {"processing": dict(item.processing), "acquisition": dict(item.acquisition)}
    if isinstance(item, dict):
        return item
    for attribute in ("data_interfaces", "time_series", "spatial_series"):
        if hasattr(item, attribute):
            return dict(getattr(item, attribute))
    return {}

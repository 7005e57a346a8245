"""The units table of an NWB file: spike times of each unit, when it was observed, its channel."""

from collections.abc import Iterator

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.nwb.nwb_electrodes import electrode_order, gather
from ndt3_dist.readers.nwb.nwb_file import NwbFile, Table, as_str, groups
from ndt3_dist.readers.nwb.nwb_peaks import rows_of_units
from ndt3_dist.readers.nwb.nwb_spikes import Spikes
from ndt3_dist.readers.options import SpikesRecipe
from ndt3_dist.readers.spans import merge, shared
from ndt3_dist.readers.spike_order import in_order
from ndt3_dist.shards.manifest import Array

DEEPEST = 4
"""Groups below each other in which units are looked for."""


def read_units(nwb: NwbFile, recipe: SpikesRecipe) -> Spikes:
    """Spikes of the units table, summed by electrode where the recipe says so."""
    units = find_units(nwb, recipe)
    times, ends = ragged(units, "spike_times")
    if times.ndim != 1:
        raise BadInput(f"{units.path}/spike_times has shape {times.shape}; expected one dimension")
    if not len(times):
        raise BadInput("has zero spikes in all its units")
    error = stored_error(times)
    repair = list(recipe.repair)
    if recipe.trial_of:
        times = on_session_clock(nwb, units, times, ends, recipe.trial_of)
        repair.append("sort_restarts")  # trials may lie in any order
    times, ends, said = in_order(times, ends, lambda unit: f"unit {units.rows('id')[unit]}", repair)
    if not len(times):
        raise BadInput("has zero spikes in all its units, and some without a time")
    found = Spikes(np.split(times, ends[:-1]), [Array(name="units", channels=len(ends))])
    found.error, found.said = error, said
    if "obs_intervals" in units.colnames:
        found.observed, found.observed_error, told = read_observed(units, recipe.observed)
        said += told
    rows, told = rows_of_units(nwb, units, recipe)
    said += told
    if rows is None:
        return found
    channel_of, found.arrays = electrode_order(nwb.electrodes)
    found.times = gather(found.times, [channel_of[row] for row in rows], found.arrays)
    return found


def find_units(nwb: NwbFile, recipe: SpikesRecipe) -> Table:
    """The table that the recipe names; BadInput with those that there are where it has none."""
    units = nwb.table(recipe.table)
    if units is not None and "spike_times" in units.colnames and len(units):
        return units
    others = [path for path in tables_of_units(nwb) if path != recipe.table]
    if others:
        raise BadInput(
            f"has no units with spike times at {recipe.table}, but units at {', '.join(others)}; "
            f"say spikes.table={others[0]}"
        )
    raise BadInput("has no units with spike times; expected a units table")


def tables_of_units(nwb: NwbFile) -> list[str]:
    """Paths of all tables of units in a file."""
    waiting, found = [""], []
    while waiting:
        above = waiting.pop(0)
        for name, group in groups(nwb.h5, above or "/"):
            path = f"{above}/{name}".lstrip("/")
            if group is None:
                continue
            if as_str(group.attrs.get("neurodata_type", "")) == "Units":
                found.append(path)
            elif path.count("/") < DEEPEST - 1 and name != "specifications":
                waiting.append(path)
    return sorted(found)


def ragged(units: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of the units table: its values, float64, and where those of each unit end."""
    values = units.numbers(name)
    if not units.is_ragged(name):  # one value a unit, or all of a single one
        if len(units) == 1:
            return values, np.array([len(values)])
        if values.shape != (len(units),):
            raise BadInput(
                f"{units.path}/{name} has shape {values.shape} and no index for {len(units)} units;"
                f" expected {units.path}/{name}_index"
            )
        return values, np.arange(len(units)) + 1
    return values, units.ends(name, len(values))


def on_session_clock(
    nwb: NwbFile, units: Table, times: np.ndarray, ends: np.ndarray, column: str
) -> np.ndarray:
    """Times that count from the start of their trial, on the clock of the session."""
    trials = nwb.intervals().get("trials")
    if trials is None or column not in units.colnames:
        missing = "no trials" if trials is None else f"no column {column!r} in {units.path}"
        raise BadInput(f"spikes.trial_of: {missing}; expected the trial of each spike")
    numbers, their_ends = ragged(units, column)
    if not np.array_equal(ends, their_ends):
        raise BadInput(
            f"{units.path}/{column} has {len(numbers)} values, spike_times {len(times)}; expected "
            "the trial of each spike"
        )
    start_of = dict(zip(trials.rows("id").tolist(), trials.numbers("start_time"), strict=True))
    unknown = sorted(set(np.unique(numbers).tolist()) - start_of.keys())
    if unknown:
        raise BadInput(f"{units.path}/{column} has trial {unknown[0]:g}, which is no id of trials")
    which, inverse = np.unique(numbers, return_inverse=True)
    return times + np.array([start_of[number] for number in which.tolist()])[inverse]


def read_observed(units: Table, which: str) -> tuple[np.ndarray | None, float, list[str]]:
    """Stretches in s in which units were observed, (spans, 2), None where none are said; the error
    of their edges; and what is to be said of them.

    Args:
        which: shared = of all units, any = of any of them.
    """
    spans = units.numbers("obs_intervals").reshape(-1, 2)
    if not len(spans):
        return None, 0.0, []
    error = stored_error(spans.ravel())
    every = merge(spans, error) if np.isfinite(spans).all() else spans[:0]
    if not len(every):
        raise BadInput(
            "its units have obs_intervals that are empty, NaN or infinite; expected times in "
            "seconds"
        )
    each = [part for part in of_each(units, spans) if len(part)]
    silent = len(units) - len(each)
    unsaid = [f"{silent} of {len(units)} units have no obs_intervals"] if silent else []
    if all(np.array_equal(part, each[0]) for part in each[1:]):
        return every, error, unsaid
    each = [merge(part, error) for part in each]
    common, lasts = shared(each), float(np.diff(every).sum())
    if which == "any":
        missed = 1 - sum(float(np.diff(part).sum()) for part in each) / (len(each) * lasts)
        told = f"{missed:.1%} of the time of its units was not observed"
        return every, error, [told, *unsaid]
    if not len(common):
        raise BadInput(
            "its units have obs_intervals that they nowhere share; spikes.observed=any takes what "
            "any of them has, and counts a unit as silent where it was not observed"
        )
    told = f"observed {np.diff(common).sum():.1f} s that all units share, of {lasts:.1f} s of any"
    return common, error, [f"{told} (spikes.observed)", *unsaid]


def of_each(units: Table, spans: np.ndarray) -> Iterator[np.ndarray]:
    """The obs_intervals of each unit, (spans, 2)."""
    if units.is_ragged("obs_intervals"):
        yield from np.split(spans, units.ends("obs_intervals", len(spans))[:-1])
    elif len(spans) == len(units):
        yield from spans[:, None]
    else:  # nothing says whose they are
        yield from [spans] * len(units)

"""Spikes of an NWB file by channel: from the units table, from events, or binned already.

A channel is an electrode of the electrodes table where there is one, in the order of electrode ids
within each array, so that a silent electrode keeps its place in every session of a subject.
"""

from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.readers.nwb_series import expand
from ndt3_dist.prep.readers.spans import merge
from ndt3_dist.prep.recipe import SpikesRecipe
from ndt3_dist.shards.format import Array


@dataclass
class Spikes:
    """What a file says about spikes.

    Attributes:
        times: Sorted times of each channel in s.
        arrays: Electrode arrays, in the order of their channels.
        observed: Stretches in s in which units were observed, (spans, 2); None where not stated.
    """

    times: list[np.ndarray]
    arrays: list[Array]
    observed: np.ndarray | None = None


def read_units(nwb, recipe: SpikesRecipe) -> Spikes:
    """Spikes of the units table, summed by electrode where the recipe says so."""
    units = nwb.units
    if units is None or "spike_times" not in units.colnames or not len(units):
        raise BadInput("has no units with spike times; expected a units table")
    unit_times = ragged(units, "spike_times")
    for i, t in enumerate(unit_times):
        check_sorted(f"unit {units.id[i]}", t)
    if not sum(len(t) for t in unit_times):
        raise BadInput("has zero spikes in all its units")
    observed = None
    if "obs_intervals" in units.colnames:
        spans = [s.reshape(-1, 2) for s in ragged(units, "obs_intervals") if s.size]
        observed = np.concatenate(spans) if spans else None
        if observed is not None:
            if not np.isfinite(observed).all() or not len(merge(observed)):
                raise BadInput(
                    "its units have obs_intervals that are empty, NaN or infinite; expected times "
                    "in seconds"
                )
            observed = merge(observed)
    by_electrode = recipe.channels == "electrode" or (
        recipe.channels == "auto" and "electrodes" in units.colnames
    )
    if not by_electrode:
        return Spikes(unit_times, [Array(name="units", channels=len(unit_times))], observed)
    if "electrodes" not in units.colnames:
        raise BadInput("its units have no electrodes; use spikes.channels=unit")
    channel_of, arrays = electrode_order(nwb)
    rows = [first_electrode(units, unit, len(channel_of)) for unit in range(len(units))]
    return Spikes(gather(unit_times, [channel_of[r] for r in rows], arrays), arrays, observed)


def ragged(units, name: str) -> list[np.ndarray]:
    """A column of the units table, float64 by unit; read at once, not unit by unit."""
    column = units[name]
    if not hasattr(column, "target"):  # one value a unit
        return [np.atleast_1d(np.asarray(column[i], np.float64)) for i in range(len(units))]
    values, ends = np.asarray(column.target.data[:], np.float64), np.asarray(column.data[:])
    ends = ends.astype(np.int64)
    if len(ends) != len(units) or (np.diff(ends, prepend=0) < 0).any() or ends[-1] != len(values):
        raise BadInput(
            f"units/{name}_index does not divide the {len(values)} values of units/{name} among "
            f"{len(units)} units; the file is damaged"
        )
    return np.split(values, ends[:-1])


def check_sorted(name: str, t: np.ndarray) -> None:
    """Refuse spike times that are NaN or do not ascend."""
    if not np.isfinite(t).all():
        raise BadInput(f"{name} has {int((~np.isfinite(t)).sum())} spike times that are NaN")
    if (np.diff(t) < 0).any():
        at = int(np.flatnonzero(np.diff(t) < 0)[0])
        raise BadInput(
            f"{name} has unsorted spike times ({t[at]:.4f} s before {t[at + 1]:.4f} s); "
            "sort them in the file"
        )


def electrode_order(nwb) -> tuple[dict[int, int], list[Array]]:
    """Channel of each row of the electrodes table, and the arrays: array after array, in the order
    of their lowest electrode id, and by id within each."""
    table = nwb.electrodes
    groups = [str(g) for g in table["group_name"][:]]
    ids = [int(i) for i in table.id[:]]
    lowest: dict[str, int] = {}
    for group, id_ in zip(groups, ids, strict=True):
        lowest[group] = min(id_, lowest.get(group, id_))
    order = sorted(range(len(ids)), key=lambda r: (lowest[groups[r]], groups[r], ids[r], r))
    names = dict.fromkeys(groups[row] for row in order)
    arrays = [Array(name=n, channels=groups.count(n)) for n in names]
    return {row: channel for channel, row in enumerate(order)}, arrays


def first_electrode(units, unit: int, electrodes: int) -> int:
    """The row of the electrodes table that a unit names first."""
    rows_of = units["electrodes"]
    if hasattr(rows_of, "target"):  # several electrodes a unit, through an index column
        begin = int(rows_of.data[unit - 1]) if unit else 0
        rows = np.asarray(rows_of.target.data[begin : int(rows_of.data[unit])])
    else:
        rows = np.atleast_1d(rows_of.data[unit])
    if not len(rows) or not 0 <= int(rows[0]) < electrodes:
        raise BadInput(f"unit {unit} names no electrode of the electrodes table")
    return int(rows[0])


def gather(times: list[np.ndarray], channels: list[int], arrays: list[Array]) -> list[np.ndarray]:
    """Sorted times of each channel of the arrays, from times with the channel that they are of."""
    per_channel: list[list] = [[] for _ in range(sum(a.channels for a in arrays))]
    for t, channel in zip(times, channels, strict=True):
        per_channel[channel].append(t)
    joined = [c[0] if len(c) == 1 else np.concatenate([*c, np.zeros(0)]) for c in per_channel]
    return [t if (t[1:] >= t[:-1]).all() else np.sort(t) for t in joined]


def read_events(nwb, recipe: SpikesRecipe) -> Spikes:
    """Threshold crossings: series whose values are channel ids, or of one electrode each."""
    table = nwb.electrodes
    if table is not None and len(table):
        channel_of, arrays = electrode_order(nwb)
        ids = {int(id_): channel_of[row] for row, id_ in enumerate(table.id[:])}
    elif recipe.num_channels:
        channel_of, arrays = {}, [Array(name="events", channels=recipe.num_channels)]
        ids = {recipe.first_channel + c: c for c in range(recipe.num_channels)}
    else:
        raise BadInput(
            "has no electrodes table to give events their channels; say spikes.num_channels"
        )
    times, channels = [], []
    for path, item in expand(nwb, recipe.path, "events"):
        if item.timestamps is None:
            raise BadInput(f"{path} has no timestamps; expected the time of each event")
        t = np.asarray(item.timestamps, np.float64)
        check_sorted(path, t)
        rows = getattr(item, "electrodes", None)
        if rows is not None:  # such as a SpikeEventSeries: all of it on one electrode
            if len(rows.data) != 1:
                raise BadInput(f"{path} is of {len(rows.data)} electrodes; expected one a series")
            times.append(t)
            channels.append(channel_of[int(rows.data[0])])
            continue
        whose = np.asarray(item.data)
        if whose.shape != t.shape:
            raise BadInput(f"{path}: {len(t)} times, data of shape {whose.shape}; expected ids")
        unknown = sorted(set(np.unique(whose).tolist()) - ids.keys())
        if unknown:
            raise BadInput(
                f"{path} has events of channel {unknown[0]:g}, which is none of its {len(ids)} "
                "channels; see spikes.num_channels and first_channel"
            )
        for id_ in np.unique(whose).tolist():
            times.append(t[whose == id_])
            channels.append(ids[id_])
    if not sum(len(t) for t in times):
        raise BadInput(f"has zero events at {recipe.path}")
    return Spikes(gather(times, channels, arrays), arrays)

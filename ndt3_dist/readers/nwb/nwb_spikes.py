"""Spikes of an NWB file by channel: from the units table, from events, or binned already.

A channel is an electrode of the electrodes table where there is one, in the order of electrode ids
within each array, so that a silent electrode keeps its place in every session of a subject.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.nwb.nwb_file import NwbFile, Table
from ndt3_dist.readers.nwb.nwb_series import expand
from ndt3_dist.readers.options import SpikesRecipe
from ndt3_dist.readers.spans import merge
from ndt3_dist.shards.manifest import Array


@dataclass
class Spikes:
    """What a file says about spikes.

    Attributes:
        times: Sorted times of each channel in s.
        arrays: Electrode arrays, in the order of their channels.
        observed: Stretches in s in which units were observed, (spans, 2); None where not stated.
        error, observed_error: What the distance of a spike, or of the edge of a stretch, from
            another time may be off by, in s.
    """

    times: list[np.ndarray]
    arrays: list[Array]
    observed: np.ndarray | None = None
    error: float = 0.0
    observed_error: float = 0.0


def read_units(nwb: NwbFile, recipe: SpikesRecipe) -> Spikes:
    """Spikes of the units table, summed by electrode where the recipe says so."""
    units = nwb.units
    if units is None or "spike_times" not in units.colnames or not len(units):
        raise BadInput("has no units with spike times; expected a units table")
    times, ends = ragged(units, "spike_times")
    if times.ndim != 1 or not len(times):
        if times.ndim != 1:
            raise BadInput(f"units/spike_times has shape {times.shape}; expected one dimension")
        raise BadInput("has zero spikes in all its units")
    check_sorted(times, ends, lambda unit: f"unit {units.column('id')[unit]}")
    unit_times = np.split(times, ends[:-1])
    found = Spikes(unit_times, [Array(name="units", channels=len(unit_times))])
    found.error = stored_error(times)
    if "obs_intervals" in units.colnames:
        found.observed, found.observed_error = read_observed(units)
    by_electrode = recipe.channels == "electrode" or (
        recipe.channels == "auto" and "electrodes" in units.colnames
    )
    if not by_electrode:
        return found
    if "electrodes" not in units.colnames:
        raise BadInput("its units have no electrodes; use spikes.channels=unit")
    channel_of, found.arrays = electrode_order(nwb.electrodes)
    channels = [channel_of[row] for row in first_electrodes(units, len(channel_of))]
    found.times = gather(unit_times, channels, found.arrays)
    return found


def ragged(units: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of the units table: its values, float64, and where those of each unit end."""
    values = units.numbers(name)
    if not units.is_ragged(name):  # one value a unit, or all of a single one
        if len(units) == 1:
            return values, np.array([len(values)])
        if values.shape != (len(units),):
            raise BadInput(
                f"units/{name} has shape {values.shape} and no index for {len(units)} units; "
                f"expected units/{name}_index"
            )
        return values, np.arange(len(units)) + 1
    return values, units.ends(name, len(values))


def read_observed(units: Table) -> tuple[np.ndarray | None, float]:
    """Stretches in s in which units were observed, (spans, 2), None where none are said; and the
    error of their edges."""
    spans = units.numbers("obs_intervals").reshape(-1, 2)
    if not len(spans):
        return None, 0.0
    error = stored_error(spans.ravel())
    if not np.isfinite(spans).all() or not len(merged := merge(spans, error)):
        raise BadInput(
            "its units have obs_intervals that are empty, NaN or infinite; expected times in "
            "seconds"
        )
    return merged, error


def check_sorted(times: np.ndarray, ends: np.ndarray, name: Callable[[int], str]) -> None:
    """Refuse spike times that are NaN or do not ascend.

    Args:
        times: Of all units, one after the other.
        ends: Where those of each unit end.
        name: Of a unit by its number, for the message.
    """
    begins = np.r_[0, ends[:-1]]
    ascends = times[1:] >= times[:-1]  # one pass: it is false beside NaN too
    ascends[begins[(begins > 0) & (begins < len(times))] - 1] = True
    edges = np.r_[begins[begins < ends], ends[begins < ends] - 1]
    if ascends.all() and np.isfinite(times[edges]).all():
        return
    for unit, t in enumerate(np.split(times, ends[:-1])):
        if wrong := int((~np.isfinite(t)).sum()):
            raise BadInput(f"{name(unit)} has {wrong} spike times that are NaN or infinite")
        if len(at := np.flatnonzero(np.diff(t) < 0)):
            raise BadInput(
                f"{name(unit)} has unsorted spike times ({t[at[0]]:.4f} s before "
                f"{t[at[0] + 1]:.4f} s); sort them in the file"
            )


def electrode_order(table: Table | None) -> tuple[dict[int, int], list[Array]]:
    """Channel of each row of the electrodes table, and the arrays: array after array, in the order
    of their lowest electrode id, and by id within each."""
    if table is None or "group_name" not in table.colnames:
        raise BadInput("has no electrodes table with group names; use spikes.channels=unit")
    groups = [str(g) for g in table.rows("group_name")]
    ids = [int(i) for i in table.rows("id")]
    lowest: dict[str, int] = {}
    for group, id_ in zip(groups, ids, strict=True):
        lowest[group] = min(id_, lowest.get(group, id_))
    order = sorted(range(len(ids)), key=lambda r: (lowest[groups[r]], groups[r], ids[r], r))
    names = dict.fromkeys(groups[row] for row in order)
    arrays = [Array(name=n, channels=groups.count(n)) for n in names]
    return {row: channel for channel, row in enumerate(order)}, arrays


def first_electrodes(units: Table, electrodes: int) -> list[int]:
    """The row of the electrodes table that each unit names first."""
    rows = units.numbers("electrodes")
    begins, ends = np.arange(len(rows)), np.arange(len(rows)) + 1
    if units.is_ragged("electrodes"):  # several electrodes a unit
        ends = units.ends("electrodes", len(rows))
        begins = np.r_[0, ends[:-1]]
    found = []
    for unit, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if begin == end or not 0 <= int(rows[begin]) < electrodes:
            raise BadInput(f"unit {unit} names no electrode of the electrodes table")
        found.append(int(rows[begin]))
    return found


def gather(times: list[np.ndarray], channels: list[int], arrays: list[Array]) -> list[np.ndarray]:
    """Sorted times of each channel of the arrays, from times with the channel that they are of."""
    per_channel: list[list] = [[] for _ in range(sum(a.channels for a in arrays))]
    for t, channel in zip(times, channels, strict=True):
        per_channel[channel].append(t)
    return [
        c[0] if len(c) == 1 else np.sort(np.concatenate([*c, np.zeros(0)])) for c in per_channel
    ]


def read_events(nwb: NwbFile, recipe: SpikesRecipe) -> Spikes:
    """Threshold crossings: series whose values are channel ids, or of one electrode each."""
    table = nwb.electrodes
    if table is not None and len(table):
        channel_of, arrays = electrode_order(table)
        ids = {int(id_): channel_of[row] for row, id_ in enumerate(table.column("id"))}
    elif recipe.num_channels:
        channel_of, arrays = {}, [Array(name="events", channels=recipe.num_channels)]
        ids = {recipe.first_channel + c: c for c in range(recipe.num_channels)}
    else:
        raise BadInput(
            "has no electrodes table to give events their channels; say spikes.num_channels"
        )
    times, channels = [], []
    for item in expand(nwb, recipe.path, "events"):
        t, path = item.timestamps(), item.path
        if t is None:
            raise BadInput(f"{path} has no timestamps; expected the time of each event")
        check_sorted(t, np.array([len(t)]), lambda _, path=path: path)
        rows = item.electrodes()
        if rows is not None:  # such as a SpikeEventSeries: all of it on one electrode
            if len(rows) != 1 or int(rows[0]) not in channel_of:
                raise BadInput(
                    f"{path} is of {len(rows)} electrodes ({rows[:4].tolist()}); expected one of "
                    "the electrodes table a series"
                )
            times.append(t)
            channels.append(channel_of[int(rows[0])])
            continue
        whose = item.data()
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
    return Spikes(gather(times, channels, arrays), arrays, error=stored_error(*times))

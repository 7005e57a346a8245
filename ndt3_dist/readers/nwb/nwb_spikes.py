"""Spikes of an NWB file by channel, and those that it keeps as events."""

from dataclasses import dataclass, field

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import stored_error
from ndt3_dist.readers.nwb.nwb_electrodes import electrode_order, gather
from ndt3_dist.readers.nwb.nwb_file import NwbFile, flat
from ndt3_dist.readers.nwb.nwb_series import expand
from ndt3_dist.readers.options import SpikesRecipe
from ndt3_dist.readers.spike_order import in_order
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
        said: What is to be said of them.
    """

    times: list[np.ndarray]
    arrays: list[Array]
    observed: np.ndarray | None = None
    error: float = 0.0
    observed_error: float = 0.0
    said: list[str] = field(default_factory=list)


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
    times, channels, said = [], [], []
    for item in expand(nwb, recipe.path, "events"):
        t, path = item.timestamps(), item.path
        if t is None:
            raise BadInput(f"{path} has no timestamps; expected the time of each event")
        rows = item.electrodes()
        whose = flat(item.data()) if rows is None else np.zeros(len(t))
        if whose.shape != t.shape:
            raise BadInput(f"{path}: {len(t)} times, data of shape {whose.shape}; expected ids")
        t, whose, told = sorted_events(path, t, whose, recipe.repair)
        said += told
        if rows is not None:  # such as a SpikeEventSeries: all of it on one electrode
            if len(rows) != 1 or int(rows[0]) not in channel_of:
                raise BadInput(
                    f"{path} is of {len(rows)} electrodes ({rows[:4].tolist()}); expected one of "
                    "the electrodes table a series"
                )
            times.append(t)
            channels.append(channel_of[int(rows[0])])
            continue
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
    return Spikes(gather(times, channels, arrays), arrays, error=stored_error(*times), said=said)


def sorted_events(path: str, times: np.ndarray, whose: np.ndarray, repair: list):
    """Times in ascending order, the channel id of each, and what was done to them."""
    ordered, _, said = in_order(times, np.array([len(times)]), lambda _: path, repair)
    if not said:
        return times, whose, said
    kept = np.flatnonzero(np.isfinite(times))
    return ordered, whose[kept[np.argsort(times[kept], kind="stable")]], said

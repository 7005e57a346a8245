"""Channels of an NWB file: the electrodes of its table, in the order of their ids within arrays.

So a silent electrode keeps its place in every session of a subject.
"""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.nwb.nwb_file import Table
from ndt3_dist.shards.manifest import Array


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


def gather(times: list[np.ndarray], channels: list[int], arrays: list[Array]) -> list[np.ndarray]:
    """Sorted times of each channel of the arrays, from times with the channel that they are of."""
    per_channel: list[list] = [[] for _ in range(sum(a.channels for a in arrays))]
    for t, channel in zip(times, channels, strict=True):
        per_channel[channel].append(t)
    return [
        c[0] if len(c) == 1 else np.sort(np.concatenate([*c, np.zeros(0)])) for c in per_channel
    ]

"""Spike times that do not ascend: sorted where that cannot be wrong, else refused or asked for.

Counts do not depend on the order of times, and writers that join the snippets of trials leave some
that go back. But a clock that begins anew gives two spikes the same time that were not together: no
sort mends that, and it is told by how far back the times go.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ndt3_dist.errors import BadInput

RESTART = 0.1
"""A step back of more than this share of all that the times span is no disorder, but a restart; so
is one that ends as near, by its own length, to the first time, after FEW spikes."""
FEW = 10
"""Of so few spikes any two that change places go back to the first."""


def in_order(
    times: np.ndarray, ends: np.ndarray, name: Callable[[int], str], repair: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Times of units in ascending order, where they end, and what was done to them.

    Args:
        times: Of all units, one after the other, in s.
        ends: Where those of each unit end.
        name: Of a unit by its number, for the message.
        repair: As `spikes.repair` of a recipe.
    Raises:
        BadInput: A time is NaN or a clock begins anew, and the recipe does not ask to mend it.
    """
    begins = np.r_[0, ends[:-1]]
    ascends = times[1:] >= times[:-1]  # one pass: it is false beside NaN too
    ascends[begins[(begins > 0) & (begins < len(times))] - 1] = True
    edges = np.r_[begins[begins < ends], ends[begins < ends] - 1]
    if ascends.all() and np.isfinite(times[edges]).all():
        return times, ends, []
    said, finite = [], np.isfinite(times)
    if lost := int((~finite).sum()):
        unit = int(np.searchsorted(ends, np.flatnonzero(~finite)[0], side="right"))
        wrong = int((~finite[begins[unit] : ends[unit]]).sum())
        if "drop_nan" not in repair:
            raise BadInput(
                f"{name(unit)} has {wrong} spike times that are NaN or infinite; correct the file, "
                "or say spikes.repair=[drop_nan] to leave them out"
            )
        ends = np.cumsum(finite)[ends - 1] * (ends > 0)
        times = times[finite]
        said.append(f"{lost} spikes without a time left out")
    units, span = np.split(times, ends[:-1]), np.ptp(times) if len(times) else 0.0
    steps, furthest = 0, 0.0
    for unit, t in enumerate(units):
        back = np.flatnonzero(np.diff(t) < 0)
        if not len(back):
            continue
        by = t[back] - t[back + 1]
        near = (t[back + 1] - t[0] < RESTART * by) & (back >= FEW)
        restarts = (by > RESTART * span) | near
        if restarts.any() and "sort_restarts" not in repair:
            at = back[np.flatnonzero(restarts)[0]]
            raise BadInput(
                f"{name(unit)} has unsorted spike times ({t[at]:.4f} s before {t[at + 1]:.4f} s), "
                f"{int(restarts.sum())} of {len(back)} steps as if its clock began anew; if times "
                "count from the start of trials say spikes.trial_of, if they are of one clock all "
                "the same spikes.repair=[sort_restarts]"
            )
        steps, furthest = steps + len(back), max(furthest, float(by.max()))
        units[unit] = np.sort(t)
    if steps:
        times = np.concatenate(units)
        said.append(f"spike times sorted: {steps} steps back by up to {furthest:.3g} s")
    return times, ends, said

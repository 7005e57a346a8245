"""Whether the clock of the spikes can be that of the file: held against all that has times in it.

Tables of intervals and series that are not read are witnesses, too. Spikes that all lie within the
length of one trial, where trials follow each other for long after, count from the start of their
trial; behaviour that covers a part of what spikes and witnesses span is a part of the session.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.nwb.nwb_file import NwbFile, TimeSeries
from ndt3_dist.readers.options import ReadOptions

FEW_ROWS = 3
"""Rows from which a table shows how long its intervals are."""
DISAGREE = 10.0
"""Spikes that last so many times longer or shorter than a witness are told of."""
BESIDE = 0.01
"""Share of what witnesses span by which spikes may lie beyond it."""


@dataclass
class Witness:
    """Something with times.

    Attributes:
        path: Of the table or series.
        start, stop: First and last of its times in s.
        rows: Of a table; 0 of a series.
        longest: Its longest interval in s.
    """

    path: str
    start: float
    stop: float
    rows: int = 0
    longest: float = 0.0


def tables(nwb: NwbFile) -> list[Witness]:
    """The tables of intervals of a file."""
    found = []
    for name, table in nwb.intervals().items():
        if not {"start_time", "stop_time"} <= set(table.colnames):
            continue
        try:
            starts, stops = table.numbers("start_time"), table.numbers("stop_time")
        except BadInput:  # it bears no witness; whoever reads it says what is wrong
            continue
        if starts.ndim != 1 or starts.shape != stops.shape:
            continue
        sound = np.isfinite(starts) & np.isfinite(stops) & (stops >= starts)
        if sound.any():
            starts, stops = starts[sound], stops[sound]
            longest = float((stops - starts).max())
            edges = float(starts.min()), float(stops.max())
            found.append(Witness(f"intervals/{name}", *edges, int(sound.sum()), longest))
    return found


def check_trials(spikes: list[np.ndarray], known: list[Witness], recipe: ReadOptions) -> list[str]:
    """Refuse spike times that count from the start of their trial; what else is to be said.

    Args:
        spikes: Sorted times of each channel in s.
        known: Tables of intervals, and series.
    """
    if recipe.spikes.trust_clock or not any(len(t) for t in spikes):
        return []
    first, last = extent(spikes)
    for table in known:
        within = last - min(first, 0.0) <= table.longest * 1.1
        if within and table.rows >= FEW_ROWS and table.stop > 2 * max(last, table.longest):
            raise BadInput(
                f"spike times end at {last:.1f} s, {table.path} at {table.stop:.1f} s, and none of "
                f"its {table.rows} intervals is longer than {table.longest:.1f} s: spike times "
                "seem to count from the start of their trial. Say spikes.trial_of=COLUMN where a "
                "column says the trial of each spike, else write them anew on the session's clock; "
                "if they are on it, spikes.trust_clock=true"
            )
    said = []
    for table in known:
        if table.stop > DISAGREE * last or last > DISAGREE * table.stop > 0:
            said.append(
                f"spikes end at {last:.1f} s, {table.path} at {table.stop:.1f} s: are both in "
                "seconds of one clock?"
            )
    return said


def extent(spikes: list[np.ndarray]) -> tuple[float, float]:
    """First and last spike of all channels in s."""
    some = [t for t in spikes if len(t)]
    return min(float(t[0]) for t in some), max(float(t[-1]) for t in some)


def is_part(
    nwb: NwbFile, spikes: list[np.ndarray], start: float, stop: float, recipe: ReadOptions
) -> bool:
    """Whether covariates from start to stop are a part of a session that something else in the file
    spans with all its spikes."""
    if recipe.spikes.trust_clock:
        return True
    path = recipe.covariates.path
    read = {path} if isinstance(path, str) else set(path)
    known = tables(nwb) + [w for w in series(nwb) if not any(_below(w.path, p) for p in read)]
    if not known or not any(len(t) for t in spikes):
        return False
    low, high = min(w.start for w in known), max(w.stop for w in known)
    beside, (first, last) = BESIDE * (high - low) + 1.0, extent(spikes)
    spikes_inside = low - beside <= first and last <= high + beside
    return spikes_inside and low - beside <= start and stop <= high + beside


def _below(path: str, read: str) -> bool:
    read = read.removesuffix("/*").strip("/")
    return path == read or path.startswith(f"{read}/")


def series(nwb: NwbFile, above: str = "") -> Iterator[Witness]:
    """All series of a file that say when they are, without reading their samples."""
    for name, group in nwb.children(above).items():
        if group is None:  # lies in another file
            continue
        path = f"{above}/{name}".lstrip("/")
        if (item := nwb.series(path)) is None:
            yield from series(nwb, path)
        elif (found := span_of(item)) is not None:
            yield Witness(path, *found)


def span_of(item: TimeSeries) -> tuple[float, float] | None:
    """First and last time of a series in s, None where it says nothing that can be believed."""
    try:
        if number := item.num_timestamps():
            times = item.group["timestamps"]
            first, last = (float(np.ravel(times[at : at + 1])[0]) for at in (0, number - 1))
        else:
            rate, samples = item.rate or 0.0, len(item.group["data"])
            if not rate >= 1:  # no signal is slower: it may be a period
                return None
            first = item.starting_time
            last = first + samples / rate
    except (BadInput, TypeError, ValueError, KeyError):
        return None
    return (first, last) if np.isfinite([first, last]).all() and last >= first else None

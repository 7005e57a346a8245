"""Starts, resumes, saves and faults of several runs along the time of day."""

import math
import time
from collections.abc import Sequence

import numpy as np

from ndt3_dist.cluster.board.compare import grid, swatch
from ndt3_dist.pages.axes import Axis
from ndt3_dist.pages.chart import Series, as_path, framed
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.page import as_html, section
from ndt3_dist.pages.words import Number, count

KINDS = {"start": 3, "resume": 2, "save": 1, "fault": 6}
"""Kinds of events with their colours."""
MINUTE, HOUR, DAY = 60, 3600, 86400
LENGTHS = [MINUTE * n for n in (1, 2, 5, 10, 30)] + [HOUR * n for n in (1, 2, 3, 6, 12)]
LENGTHS += [DAY * n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)]
MOST_EVENTS = 60
"""Rows of the table of events, the newest."""
YEARS = 4e9
"""Seconds since 1970 that a clock may say."""


def time_axis(low: float, high: float, most: int = 5) -> Axis:
    """With round hours or days, in the time of this machine."""
    high = max(high, low + MINUTE)
    length = next((n for n in LENGTHS if (high - low) / n <= most), LENGTHS[-1])
    here = time.localtime(low).tm_gmtoff
    first = math.ceil((low + here) / length) * length - here
    form = "%H:%M" if length < HOUR else ("%d %b %H:%M" if length < DAY else "%d %b")
    places = np.arange(first, high, length).tolist()[: most + 1]
    return Axis(low, high, [(t, time.strftime(form, time.localtime(t))) for t in places])


def time_line(runs: Sequence[FollowedRun]) -> str:
    """A drawing with a row of each run, and the newest events as a table."""
    events = [
        (event, index)
        for index, run in enumerate(runs)
        for event in run.events.all()
        if 0 < event.time < YEARS
    ]
    if not events:
        return ""
    times = [event.time for event, _ in events]
    room = max(MINUTE, 0.03 * (max(times) - min(times)))
    x_axis = time_axis(min(times) - room, max(times) + room)
    rows = len(runs)
    y_axis = Axis(0.4, rows + 0.6, [(rows - i, str(i + 1)) for i in range(rows)])
    drawing, keys = [], []
    for index in range(rows):
        own = [event.time for event, i in events if i == index]
        if own:
            line = Series(np.array([min(own), max(own)]), np.full(2, float(rows - index)))
            drawing.append(f'<path class="grid" d="{as_path(line, x_axis, y_axis)}"/>')
    for kind, colour in KINDS.items():
        of_kind = [(event.time, float(rows - i)) for event, i in events if event.kind == kind]
        if of_kind:
            x, y = np.array(of_kind).T
            dots = Series(x, y, kind, colour, "dot")
            keys.append(dots)
            path = as_path(dots, x_axis, y_axis)
            drawing.append(f'<path class="k{colour} dot" d="{path}"/>')
    figure = framed(
        "".join(drawing), keys, x_axis, y_axis, "What happened when", "time here", wide=True
    )
    newest = sorted(events, key=lambda pair: -pair[0].time)[:MOST_EVENTS]
    lines = [
        [
            swatch(index),
            as_html(Number(time.strftime("%d %b %H:%M:%S", time.localtime(event.time)))),
            as_html(event.kind),
            "" if event.step is None else as_html(count(event.step)),
            as_html(event.text),
        ]
        for event, index in newest
    ]
    table = grid(["", "Time", "What", "Step", ""], lines)
    note = "<p class=note>Of saves, those that are still there.</p>"
    return section("Time line", f'<div class="charts">{figure}</div>', note, table)

"""Charts of windows: rasters of what is counted, signals in the units they were recorded in."""

import numpy as np

from ndt3_dist.pages.axes import Axis, linear_axis
from ndt3_dist.pages.chart import SIDE, Series, as_chart, framed
from ndt3_dist.pages.style import COLOURS
from ndt3_dist.pages.words import Name
from ndt3_dist.shards.manifest import Session

CHANNELS = 256
"""Of a raster, at most."""
ROWS = 500
"""Of a raster, at most: ten seconds of bins of 20 ms."""
OF_X = "time in the window, s"


def signal_charts(
    session: Session, name: str, values: np.ndarray, rate_hz: float, of_x: str, wide: bool = False
) -> list[str]:
    """A chart for each unit that a stream has, with as many dimensions as there are colours.

    Args:
        values: As windows hold them, (rows, dims): those of covariates are in units of the
            session's scale, and are shown in those of the recording.
        rate_hz: Rows of a second.
    """
    dims = values.shape[1]
    labels = [f"dimension {d + 1}" for d in range(dims)]
    units = [{s.name: s.unit for s in session.streams}.get(name, "")] * dims
    if name == "covariates" and len(session.covariates) == dims:
        labels = [Name(c.name) for c in session.covariates]
        units = [c.unit for c in session.covariates]
        values = values * np.array([c.scale for c in session.covariates])
    time, charts = np.arange(len(values)) / rate_hz, []
    for unit in dict.fromkeys(units):
        own = [d for d in range(dims) if units[d] == unit]
        lines = [
            Series(time, values[:, d], labels[d], colour, "thin")
            for colour, d in enumerate(own[:COLOURS], 1)
        ]
        told = [unit] * bool(unit)
        if len(own) > COLOURS:
            told.append(f"the first {COLOURS} of {len(own)} dimensions")
        across = (0.0, len(values) / rate_hz)
        charts.append(
            as_chart(Name(name), lines, of_x, unit=", ".join(told), wide=wide, across=across)
        )
    return charts


def raster_chart(name: str, counts: np.ndarray, rate_hz: float) -> str:
    """What each channel counted in each row; "" where there is none.

    Args:
        counts: (rows, channels), of which at most `ROWS` and `CHANNELS` are drawn.
        rate_hz: Rows of a second.
    """
    channels = counts.shape[1]
    drawn = counts[:ROWS, :CHANNELS]
    rows, shown = drawn.shape
    if not drawn.size:
        return ""
    keys = [
        Series(*np.zeros((2, 0)), label="1 in a bin", colour=0),
        Series(*np.zeros((2, 0)), label="2 or more", colour=2),
    ]
    scale = f"scale({SIDE / rows:.6g} {SIDE / shown:.6g})"
    paths = "".join(
        f'<path class="k{key.colour} cells" transform="{scale}" d="{as_cells(mask)}"/>'
        for key, mask in zip(keys, (drawn == 1, drawn > 1), strict=True)
    )
    of_channels = linear_axis(0, shown, whole=True)
    ticks = [(value + 0.5, text) for value, text in of_channels.ticks if value < shown]
    y_axis = Axis(0, shown, ticks)
    what = "by channel" if shown == channels else f"by channel, the first {shown} of {channels}"
    time = linear_axis(0, rows / rate_hz)
    return framed(paths, keys, time, y_axis, Name(name), OF_X, what, True, "tall plot")


def as_cells(mask: np.ndarray) -> str:
    """Where (rows, channels) is true, as a path of one unit a row and channel, channel 0 below."""
    edges = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    channel, first = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    height = mask.shape[1] - channel - 0.5
    found = zip(first.tolist(), height.tolist(), (stop - first).tolist(), strict=True)
    return "".join(f"M{x} {y:g}h{length}" for x, y, length in found)

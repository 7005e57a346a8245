"""Line charts as inline SVG: lines stretch with the page, and labels are text of the page.

A chart costs some kilobytes, however long its series are: of longer ones the least and the greatest
value of each stretch is drawn.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ndt3_dist.pages.axes import Axis, linear_axis, log_axis
from ndt3_dist.pages.page import as_html

POINTS = 400
"""Stretches of a series, each with two points."""
PLACES = 240
"""Where a smoothed series is known."""
SIDE = 1000
"""Of the square that is stretched over the page."""


@dataclass
class Series:
    """One line.

    Attributes:
        x, y: (points,); no line where y is not finite.
        label: For the key; "" = none.
        colour: 0 = ink, then 1 to `style.COLOURS`.
        drawn: As "line", "thin", "faint", "dot", "area": bars down to zero, one wide, or "band":
            what the line encloses.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    colour: int = 1
    drawn: str = "line"


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each of `POINTS` stretches, in order of x."""
    if len(x) <= 2 * POINTS:
        return x, y
    kept = []
    for part in np.array_split(np.arange(len(x)), POINTS):
        known = part[np.isfinite(y[part])]
        if len(known):
            kept += sorted({int(known[y[known].argmin()]), int(known[y[known].argmax()])})
        else:
            kept.append(int(part[0]))
    return x[kept], y[kept]


def smoothed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the series comes to at some places: means, near values first, leaps cut off."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    most = max(1, len(y) // 25)
    at = np.unique(np.linspace(0, max(len(y) - 1, 0), min(PLACES, len(y))).astype(int))
    found = []
    for i in at.tolist():
        half = max(1, most // 4, min(most, i, len(y) - 1 - i))  # ends lean on what is beside them
        near = slice(max(0, i - half), i + half + 1)
        ends = np.quantile(y[near], 0.1, method="higher"), np.quantile(y[near], 0.9, method="lower")
        calm = y[near].clip(min(ends), max(ends))
        apart = (np.arange(near.start, min(near.stop, len(y))) - i) / half
        found.append(np.average(calm, weights=np.exp(-2 * apart**2)))
    return x[at], np.array(found)


def raw_and_smoothed(x: np.ndarray, y: np.ndarray, label: str = "", colour: int = 1):
    """The two series of a noisy curve: all of it faint, what it comes to bold."""
    return [
        Series(x, y, "", colour, "faint"),
        Series(*smoothed(x, y), label, colour, "line"),
    ]


def as_path(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    """The path of a series in a square of `SIDE`."""
    x, y = np.asarray(series.x, float), np.asarray(series.y, float)
    if series.drawn not in ("dot", "area"):
        x, y = thinned(x, y)
    across = np.round(SIDE * x_axis.place(x))
    up = SIDE - np.round(SIDE * np.clip(y_axis.place(y), -0.02, 1.02))
    steps, pen = [], "M"
    if series.drawn == "area":  # a bar from half a step before each value to half a step after
        left, wide = SIDE * x_axis.place(x - 0.5), SIDE / (x_axis.high - x_axis.low)
        for start, height in zip(left.tolist(), up.tolist(), strict=True):
            if height < SIDE:
                steps.append(f"M{start:.1f} {SIDE}V{height:.0f}h{wide:.1f}V{SIDE}z")
        return "".join(steps)
    for a, b in zip(across.tolist(), up.tolist(), strict=True):
        if not math.isfinite(b):
            pen = "M"
            continue
        steps.append(f"{pen}{a:.0f} {b:.0f}" + ("h0" if series.drawn == "dot" else ""))
        pen = "M" if series.drawn == "dot" else "L"
    return "".join(steps)


def as_chart(
    caption: str,
    series: Sequence[Series],
    of_x: str,
    *,
    unit: str = "",
    log: bool = False,
    from_zero: bool = False,
    wide: bool = False,
    across: tuple[float, float] | None = None,
) -> str:
    """A figure with its key; "" where no value of any series is finite.

    Args:
        caption: What the values are.
        series: Drawn in order, the last on top.
        of_x: What x is, with its unit.
        unit: Of the values.
        log: Draw equal factors equally long, where all values allow it and differ by much.
        from_zero: Let the values' axis begin at zero.
        wide: Take the whole width of the page.
        across: Ends of x, where they are not those of the series.
    """
    xs = np.concatenate([np.asarray(s.x, float) for s in series] or [np.zeros(0)])
    ys = np.concatenate([np.asarray(s.y, float) for s in series] or [np.zeros(0)])
    known = np.isfinite(ys)
    if not known.any():
        return ""
    calm = [s.y[np.isfinite(s.y)] for s in series if s.drawn != "faint"]
    raw = np.quantile(ys[known], [0.002, 0.998])  # a few leaps do not flatten the rest
    low = min([raw[0], *(c.min() for c in calm if len(c))])
    high = max([raw[1], *(c.max() for c in calm if len(c))])
    as_log = log and ys[known].min() > 0 and high > 8 * low
    if as_log:
        y_axis = log_axis(low / 1.06, high * 1.06)
    else:
        room = 0.05 * (high - low)
        at_zero = low >= 0 and (from_zero or any(s.drawn == "area" for s in series))
        y_axis = linear_axis(0 if at_zero else low - room, high + room or float(at_zero))
    half = 0.5 * any(s.drawn == "area" for s in series)
    left, right = across or (xs.min() - half, xs.max() + half)
    x_axis = linear_axis(left, right, whole=bool((xs == np.round(xs)).all()))
    paths = "".join(
        f'<path class="k{s.colour} {s.drawn}" d="{as_path(s, x_axis, y_axis)}"/>' for s in series
    )
    return framed(paths, series, x_axis, y_axis, caption, of_x, unit, wide)


def framed(
    drawing: str,
    keys: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    caption: str,
    of_x: str,
    unit: str = "",
    wide: bool = False,
    kind: str = "plot",
) -> str:
    """What is drawn in a square of `SIDE` (SVG) as a figure with its axes and key.

    Args:
        keys: Those that have a label are in the key.
        caption, of_x, unit, wide: As of `as_chart`.
        kind: Class of the plot.
    """
    heights = [(text, float(y_axis.place(np.array(v)))) for v, text in y_axis.ticks]
    grid = "".join(f"M0 {SIDE * (1 - h):.0f}H{SIDE}" for _, h in heights)
    drawing = f'<path class="grid" d="{grid}M0 {SIDE}H{SIDE}"/>{drawing}'
    labels = [f'<span class="y" style="bottom:{100 * h:.1f}%">{t}</span>' for t, h in heights]
    for value, text in x_axis.ticks:
        place = 100 * float(x_axis.place(np.array(value)))
        labels.append(f'<span class="x" style="left:{place:.1f}%">{text}</span>')
    labels.append(f'<span class="of-x">{html.escape(of_x)}</span>')
    key = "".join(
        f'<span class="key k{s.colour}{" dot" * (s.drawn == "dot")}">{as_html(s.label)}</span>'
        for s in keys
        if s.label
    )
    said = html.escape(f"{caption} by {of_x}", quote=True)
    caption = as_html(caption) + html.escape(f", {unit}" if unit else "")
    return (
        f"<figure{' class=wide' if wide else ''}><figcaption><span>{caption}</span>{key}"
        f'</figcaption><div class="{kind}"><svg viewBox="0 0 {SIDE} {SIDE}" role="img" '
        f'preserveAspectRatio="none" aria-label="{said}">{drawing}</svg>'
        f"{''.join(labels)}</div></figure>"
    )


def as_charts(*charts: str) -> str:
    """Charts side by side where there is room."""
    held = [chart for chart in charts if chart]
    return f'<div class="charts">{"".join(held)}</div>' if held else ""

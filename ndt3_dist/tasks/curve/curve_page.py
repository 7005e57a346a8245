"""A curve as a picture and a page: means of seeds with their spread over minutes of data."""

from pathlib import Path

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.pages.axes import linear_axis, log_axis
from ndt3_dist.pages.chart import Series, as_charts, as_path, framed
from ndt3_dist.pages.page import as_page, as_table, section, sentence
from ndt3_dist.pages.words import R2, Name, Number, score
from ndt3_dist.tasks.curve.cells import DECODERS, Curve
from ndt3_dist.tasks.curve.curve_table import Cells, centre, csv_text, scores_of, summary

TABLE, PICTURE, PAGE = "table.csv", "curve.png", "curve.html"
LEAST = -0.25
"""R2 below which a chart does not follow: a decoder that has failed would flatten the others."""


def bands_of(curve: Curve, cells: Cells) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean over seeds and standard deviation at each amount, of each decoder that has one."""
    found = {}
    for decoder in curve.decoders:
        each = [centre([*scores_of(cells, decoder, a.label).values()]) for a in curve.amounts]
        middle, spread = (np.array(values) for values in zip(*each, strict=True))
        if np.isfinite(middle).any():
            found[decoder] = middle, spread
    return found


def chart(curve: Curve, bands: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """The bands as a figure of a page; "" where there are none."""
    if not bands:
        return ""
    minutes = np.array([a.minutes for a in curve.amounts])
    ends = [y + side * half for y, half in bands.values() for side in (-1, 1)]
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.05 * (high - low)
    x_axis = log_axis(minutes.min() / 1.05, minutes.max() * 1.05)
    x_axis.ticks = [(m, f"{m:.3g}") for m in minutes.tolist()]
    y_axis = linear_axis(max(float(low - room), LEAST), float(high + room))
    lines, drawing = [], ""
    for colour, (name, (middle, spread)) in enumerate(bands.items(), 1):
        known = np.isfinite(middle)
        x, y, half = minutes[known], middle[known], spread[known]
        around = np.concatenate([y - half, (y + half)[::-1]])
        there_and_back = np.concatenate([x, x[::-1]])
        lines += [
            Series(there_and_back, around, "", colour, "band"),
            Series(x, y, "", colour, "dot"),
            Series(x, y, name, colour),
        ]
    for series in lines:
        path = as_path(series, x_axis, y_axis)
        drawing += f'<path class="k{series.colour} {series.drawn}" d="{path}"/>'
    caption = f"{R2} on the test bins, mean and standard deviation of {curve.seeds} seeds"
    of_x = f"minutes of {curve.config.data.fit} that were fitted"
    return framed(drawing, lines, x_axis, y_axis, caption, of_x, wide=True, kind="tall plot")


def mean_rows(curve: Curve, cells: Cells) -> list[dict]:
    """A row an amount, with the best decoder of each in its own column."""
    rows = []
    for amount in curve.amounts:
        row: dict[str, object] = {
            "amount": Number(amount.label),
            "minutes": Number(f"{amount.minutes:.3g}"),
        }
        for decoder in curve.decoders:
            values = [*scores_of(cells, decoder, amount.label).values()]
            middle, spread = centre(values)
            around = f" \u00b1 {score(spread)}" if len(values) > 1 else ""
            row[decoder] = Number(score(middle) + around)
        rows.append(row)
    return rows


def cell_rows(cells: Cells) -> list[dict]:
    """A row a cell: its scores in all definitions, and what was chosen for it."""
    rows = []
    for cell in cells:
        scores, picked = cell["scores"], cell["chosen"]
        shown = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in picked.items()
            if k != "at_edge"
        )
        rows.append(
            {"decoder": cell["decoder"], "amount": Number(cell["amount"])}
            | {"seed": Number(cell["seed"]), "bins": Number(cell["bins"])}
            | {key: score(scores[key]) for key in ("r2", "r2_uniform", "r2_flat")}
            | {"held back": score(cell["held_back"]), "chosen": shown}
        )
    return rows


def write_all(curve: Curve, cells: Cells, dims: list[str], out: Path) -> list[Path]:
    """The table, the picture and the page; which were written."""
    bands = bands_of(curve, cells)
    storage.write_bytes(out / TABLE, csv_text(cells, dims).encode())
    written = [out / TABLE]
    minutes = [a.minutes for a in curve.amounts]
    of_x = f"minutes of {curve.config.data.fit} that were fitted"
    of_y = f"R2 on the test bins, {curve.seeds} seed{'s' * (curve.seeds > 1)}"
    try:
        from ndt3_dist.pages.picture import save_bands

        save_bands(minutes, bands, of_x, of_y, out / PICTURE)
        written.append(out / PICTURE)
    except ImportError:
        log.warn(f"{PICTURE}: not drawn without matplotlib; pip install 'ndt3_dist[report]'")
    lines, session = summary(curve, cells), curve.config.data.session
    what = "".join(f"<li>{sentence(d, ': ', DECODERS[d])}</li>" for d in curve.decoders)
    bins = max((c["scores"]["bins"] for c in cells), default=0)
    about = sentence(
        f"All are scored on the same {bins} bins of {curve.test} in raw units. {R2} is weighted by "
        "the variance of the dimensions. Of one seed all decoders are fitted to the same stretch "
        "of data, a smaller one within each larger one; its last part chooses learning rates, "
        "penalties and steps."
    )
    parts = [
        *(f'<p class="warn">{sentence(line)}</p>' for line in curve.seen),
        as_charts(chart(curve, bands)),
        section("Means of seeds", as_table(mean_rows(curve, cells))),
        section("What follows", *(f"<p>{sentence(line)}.</p>" for line in lines)),
        section("Decoders", f"<ul>{what}</ul>", f'<p class="note">{about}</p>'),
        section("Cells", as_table(cell_rows(cells))),
    ]
    first = lines[0].partition(" (")[0] if lines else f"{R2} by amount of data"
    head = sentence(Name(session), ": ", first)
    storage.write_bytes(out / PAGE, as_page("Curve", out.name, head, parts))
    return [*written, out / PAGE]

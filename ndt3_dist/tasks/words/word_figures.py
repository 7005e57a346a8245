"""Picture files of an experiment: its score over lag, its electrodes on three views of the head."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def save_lags(
    path: Path, lags: Sequence[int], curves: Mapping[str, tuple], of_y: str, title: str
) -> None:
    """Draw scores over lag with their spread over folds.

    Args:
        path: Its suffix decides the format.
        curves: Name -> (means, deviations) of each lag; (means, None) is drawn without a band.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=10)
    for name, (means, deviations) in curves.items():
        means, style = np.asarray(means, float), "-" if deviations is not None else "--"
        (line,) = axis.plot(lags, means, style, marker=".", linewidth=1.4, label=name)
        if deviations is not None:
            low, high = means - deviations, means + np.asarray(deviations, float)
            axis.fill_between(lags, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axis.axvline(0, color="#888", linewidth=0.8)
    axis.set_xlabel("lag from word onset, ms")
    axis.set_ylabel(of_y)
    axis.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def save_electrodes(path: Path, places: np.ndarray, values: np.ndarray, title: str) -> None:
    """Draw electrodes from the left, from behind and from above, with a head's outline.

    Args:
        places: x, y, z in mm (right, front, up), (electrodes, 3).
        values: How strong each is, (electrodes,), 0 or more.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    views = (("from the side", 1, 2, 0), ("from behind", 0, 2, 1), ("from above", 0, 1, 2))
    order, drawn = np.argsort(values), None
    for axis, (name, across, up, _) in zip(figure.subplots(1, 3), views, strict=True):
        centre, size = HEAD[[across, up]], EXTENT[[across, up]]
        axis.add_patch(Ellipse(tuple(centre), *size, fill=False, color="#999", linewidth=1))
        drawn = axis.scatter(
            places[order, across],
            places[order, up],
            c=values[order],
            s=14,
            cmap="viridis",
            vmin=0,
        )
        axis.set_aspect("equal")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel(f"{'xyz'[across]}, mm", fontsize=8)
        axis.set_ylabel(f"{'xyz'[up]}, mm", fontsize=8)
    if drawn is not None:
        figure.colorbar(drawn, ax=figure.axes, shrink=0.8, label="weight")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


HEAD = np.array([0.0, -18.0, 15.0])
EXTENT = np.array([140.0, 180.0, 130.0])
"""Centre and size of a brain in MNI's space, in mm, about."""

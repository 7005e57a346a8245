"""Picture files, png, svg or pdf by matplotlib: true and decoded traces (`evaluate --plot`), curves
of a plan (`plan --picture`), curves of decoders with their spread (`curve`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ndt3_dist.pages.decoding import stretch
from ndt3_dist.pages.words import R2, score


def save_traces(result: dict, path: Path, seconds: float = 20) -> None:
    """Draw true covariates and what each decoder made of them.

    Args:
        result: What `evaluate.session.evaluate` returned.
        path: Its suffix decides the format.
        seconds: Length of the stretch, from the middle.
    """
    from matplotlib.figure import Figure

    part, time = stretch(result, seconds)
    dims = result["dims"]
    figure = Figure(figsize=(9, 2.2 * len(dims)), layout="constrained")
    axes = figure.subplots(len(dims), 1, squeeze=False)[:, 0]
    for d, axis in enumerate(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.plot(time, result["truth"][part, d], color="black", linewidth=1.4, label="true")
        for name, predicted in result["predictions"].items():
            label = f"{name} ({R2} {score(result['scores'][name]['r2'])})"
            axis.plot(time, predicted[part, d], linewidth=1, alpha=0.85, label=label)
        axis.set_ylabel(dims[d])
    axes[0].legend(ncols=4, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.25))
    axes[-1].set_xlabel("time in the scored part, s")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def save_curves(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], of_x: str, title: str, path: Path
) -> None:
    """Draw one curve below the other over one x, both by factors; shares as they are.

    Args:
        curves: What each is, with its unit -> values; one whose name ends in `, %` is a share.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 2.1 * len(curves) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
    plain = FuncFormatter(lambda value, _: f"{value:,.6g}")
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="#dfe3e8", linewidth=0.8)
        axis.plot(x, values, color="#1f5fa8", marker="o", markersize=3.5, linewidth=1.4)
        axis.set_xscale("log", base=2)
        if name.endswith(", %"):
            axis.set_ylim(0, 105)
        elif max(values) > 4 * min(values):
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_ylim(0, 1.1 * max(values))
        axis.yaxis.set_major_formatter(plain)
        axis.set_ylabel(name, fontsize=9)
    axes[-1].xaxis.set_major_formatter(plain)
    axes[-1].set_xlabel(of_x)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def save_bands(
    x: Sequence[float],
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]],
    of_x: str,
    of_y: str,
    path: Path,
) -> None:
    """Draw curves with their spread over one x by factors.

    Args:
        bands: What each is -> its values and how far the band reaches to either side.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#dfe3e8", linewidth=0.8)
    for number, (name, (values, spread)) in enumerate(bands.items()):
        low, high, colour = values - spread, values + spread, f"C{number}"
        axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        axis.plot(x, values, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
    axis.set_xscale("log")
    axis.set_xticks([*x])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(of_x)
    axis.set_ylabel(of_y)
    axis.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)

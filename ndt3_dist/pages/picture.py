"""A picture file of true and decoded traces (`evaluate --plot`): png, svg or pdf by matplotlib."""

from pathlib import Path

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

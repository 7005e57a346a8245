"""One self-contained HTML page of a run: curves, throughput, decoded traces, the corpus.

Figures are PNGs inside the page; it needs no network and no script.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.predictions import read_predictions, save_predictions
from ndt3_dist.pages.page import STYLE, as_image, as_table, new_figure
from ndt3_dist.shards.manifest import Manifest
from ndt3_dist.shards.summary import corpus_rows
from ndt3_dist.train.run_metrics import read_metrics


def loss_figure(metrics: list[dict]):
    """Loss of each target at every step, with the moving median that the eye looks for."""
    keys = [key for key in metrics[-1] if key.startswith("loss_") and "/" not in key]
    figure, axes = new_figure(len(keys))
    steps = np.array([m["step"] for m in metrics])
    for axis, key in zip(axes, keys, strict=True):
        values = np.array([m[key] for m in metrics])
        axis.plot(steps, values, color="#9db4d3", linewidth=0.8)
        width = max(1, len(values) // 40)
        smooth = [np.median(values[max(0, i - width) : i + 1]) for i in range(len(values))]
        axis.plot(steps, smooth, color="#1f4e8c", linewidth=1.6)
        axis.set_ylabel(key)
        if values.min() > 0:
            axis.set_yscale("log")
    axes[-1].set_xlabel("step")
    return figure


def validation_figure(metrics: list[dict]):
    """Scores on held-out windows by step; None where there are none."""
    found = [m for m in metrics if "val_loss" in m]
    if not found:
        return None
    apart = ("val_loss_", "val_s", "val_r2_")
    keys = [k for k in found[-1] if k.startswith("val_") and "/" not in k]
    keys = [key for key in keys if not key.startswith(apart)]
    figure, axes = new_figure(len(keys), 1.8)
    steps = [m["step"] for m in found]
    for axis, key in zip(axes, keys, strict=True):
        axis.plot(
            steps, [m.get(key, np.nan) for m in found], marker=".", linewidth=1.2, color="#1f4e8c"
        )
        axis.set_ylabel(key)
    axes[-1].set_xlabel("step")
    return figure


def rate_figure(metrics: list[dict]):
    """Tokens per second and the share of time spent waiting for data."""
    figure, axes = new_figure(2, 1.8)
    steps = [m["step"] for m in metrics]
    axes[0].plot(steps, [m["tokens"] / m["step_s"] / 1000 for m in metrics], linewidth=0.8)
    axes[0].set_ylabel("1000 tokens/s")
    axes[0].set_ylim(bottom=0)
    axes[1].plot(steps, [100 * m["wait_s"] / m["step_s"] for m in metrics], linewidth=0.8)
    axes[1].set_ylabel("waiting for data, %")
    axes[1].set_ylim(bottom=0)
    axes[1].set_xlabel("step")
    return figure


def trace_figure(result: dict, seconds: float = 20):
    """True covariates and what each decoder made of them, a stretch from the middle.

    Args:
        result: What `evaluate.session.evaluate` returned.
        seconds: Length of the stretch.
    """
    truth, bin_s = result["truth"], result["bin_ms"] / 1000
    bins = min(len(truth), int(seconds / bin_s))
    start = (len(truth) - bins) // 2
    part = slice(start, start + bins)
    time = np.arange(start, start + bins) * bin_s
    figure, axes = new_figure(truth.shape[1], 2.2)
    for d, axis in enumerate(axes):
        axis.plot(time, truth[part, d], color="black", linewidth=1.4, label="true")
        for name, predicted in result["predictions"].items():
            score = result["scores"][name]["r2"]
            label = f"{name} (R2 {score:.3f})"
            axis.plot(time, predicted[part, d], linewidth=1, alpha=0.85, label=label)
        axis.set_ylabel(result["dims"][d])
    axes[0].legend(ncols=4, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.25))
    axes[-1].set_xlabel("time in the test part, s")
    return figure


def write_report(
    run: str | Path,
    manifest: Manifest | None = None,
    evaluation: dict | None = None,
    summary: dict[str, Any] | None = None,
) -> str:
    """Write RUN/report.html from what there is.

    Args:
        manifest: Corpus to show in a table.
        evaluation: Result of `evaluate.session.evaluate`, for traces and scores; kept in
            RUN/evaluation.npz, which is shown where none is given.
        summary: Numbers for the top of the page; RUN/summary.json where none are given.
    Returns:
        The page's path.
    Raises:
        BadInput: The run has no metrics yet.
    """
    metrics = read_metrics(run)
    if not metrics:
        raise BadInput(f"{run}: no metrics.jsonl with a step in it; nothing to report yet")
    kept, summary_file = storage.join(run, "evaluation.npz"), storage.join(run, "summary.json")
    if evaluation:
        save_predictions(kept, evaluation)
    elif storage.exists(kept):
        evaluation = read_predictions(kept)
    if summary is None and storage.exists(summary_file):
        summary = storage.read_json(summary_file)
    name = html.escape(str(run).rstrip("/").rsplit("/", 1)[-1])
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title>",
        f"<style>{STYLE}</style><h1>Run {name}</h1>",
    ]
    if summary:
        parts.append(as_table([{"": k, "value": v} for k, v in summary.items()]))
    parts += ["<h2>Loss</h2>", as_image(loss_figure(metrics), "losses by step")]
    if validated := validation_figure(metrics):
        parts += ["<h2>Validation</h2>", as_image(validated, "scores on held-out windows by step")]
    parts += ["<h2>Throughput</h2>", as_image(rate_figure(metrics), "tokens per second by step")]
    if evaluation:
        rows = [
            {"decoder": k, "R2, variance-weighted": f"{v['r2']:.4f}", "bins": v["bins"]}
            for k, v in evaluation["scores"].items()
        ]
        session = html.escape(evaluation["session"])
        parts += [f"<h2>Decoding, session {session}</h2>", as_table(rows)]
        parts.append(as_image(trace_figure(evaluation), "true and decoded covariates"))
    if manifest:
        parts += ["<h2>Corpus</h2>", as_table(corpus_rows(manifest))]
    path = storage.join(run, "report.html")
    storage.write_bytes(path, "\n".join([*parts, "</html>"]).encode())
    return path

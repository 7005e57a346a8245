"""The page of an experiment: scores over lag beside chance, baselines and controls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.pages.chart import Series as Line
from ndt3_dist.pages.chart import as_chart, as_charts
from ndt3_dist.pages.page import as_facts, as_page, as_table, section, sentence
from ndt3_dist.pages.words import Name, Number
from ndt3_dist.tasks.words.cell import Cell
from ndt3_dist.tasks.words.lag_table import headline_of, read_cells, rows_of
from ndt3_dist.tasks.words.scores.fold_scores import is_lower_better
from ndt3_dist.tasks.words.series import Series
from ndt3_dist.tasks.words.word_config import Experiment
from ndt3_dist.tasks.words.word_figures import save_electrodes, save_lags

CHANCE = {"pairwise_accuracy": 0.5, "roc_auc": 0.5, "roc_auc_multiclass": 0.5, "corr": 0.0}
CHANCE |= {"word_avg_auc_roc": 0.5, "cosine_sim": float("nan")}
CURVES = {
    "test": "model",
    "test_ridge": "ridge",
    "test_logistic": "logistic",
    "test_linear": "linear",
}
CONTROLS = {"test_mean": "mean of training targets", "test_shuffled": "shuffled words"}


def write_page(
    folder: Path, stage: Experiment, series: Sequence[Series], cells: Sequence[Cell]
) -> None:
    """Write report.html, and pictures where matplotlib is there."""
    by_lag = read_cells(folder, cells)
    if not by_lag:
        return
    rows, results = rows_of(by_lag), [r for each in by_lag.values() for r in each]
    head, lags = headline_of(results), [int(row["lags"]) for row in rows]
    drawn = [head]
    drawn += [n for n in ("word_avg_auc_roc", "cosine_sim", "corr", "f1") if n != head]
    charts = [chart_of(rows, name) for name in drawn if f"test_{name}_mean" in rows[0]]
    best = best_row(rows, head)
    spec, task = stage.model_spec.constructor_name, stage.task_config.task_name
    value = Number(f"{rows[best][f'test_{head}_mean']:.3f}")
    of = sentence(
        head.replace("_", " "), " ", value, " at ", Number(f"{lags[best]}"), " ms, ", Name(spec)
    )
    facts = {
        "task": task,
        "subjects": Number(str(len(series))),
        "electrodes": Number(str(sum(len(one.columns) for one in series))),
        "test words of a fold": Number(f"{rows[0]['words_test_mean']:.0f}"),
        "purged words of a fold": Number(f"{rows[0]['words_purged_mean']:.0f}"),
        "folds": stage.training_params.fold_type.replace("_", " "),
        "gap": Number(f"{stage.gap_s:g} s"),
    }
    table = as_table([table_row(row, head) for row in rows], best)
    parts = [as_facts(facts), section("Scores over lag", as_charts(*charts)), table]
    parts += pictures(folder, stage, series, cells, rows, head, lags[best])
    storage.write_bytes(folder / "report.html", as_page("words", stage.trial_name, of, parts))


def best_row(rows: Sequence[dict], head: str) -> int:
    values = np.array([row[f"test_{head}_mean"] for row in rows], float)
    values = -values if is_lower_better(head) else values
    return int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))


def curve(rows: Sequence[dict], key: str) -> np.ndarray:
    return np.array([row.get(key, np.nan) for row in rows], float)


def chart_of(rows: Sequence[dict], name: str) -> str:
    """A score over lag: model and baselines, their spread, controls and chance."""
    lags, lines = curve(rows, "lags"), []
    for colour, (prefix, label) in enumerate(CURVES.items(), 1):
        if f"{prefix}_{name}_mean" in rows[0]:
            means, spread = (curve(rows, f"{prefix}_{name}_{k}") for k in ("mean", "std"))
            lines += [Line(lags, means + sign * spread, "", colour, "thin") for sign in (-1, 1)]
            lines.append(Line(lags, means, label, colour))
    for colour, (prefix, label) in enumerate(CONTROLS.items(), 5):
        if f"{prefix}_{name}_mean" in rows[0]:
            lines.append(Line(lags, curve(rows, f"{prefix}_{name}_mean"), label, colour, "dot"))
    if np.isfinite(CHANCE.get(name, np.nan)):
        lines.append(Line(lags, np.full(len(lags), CHANCE[name]), "chance", 0, "thin"))
    return as_chart(name.replace("_", " "), lines, "lag from word onset, ms")


def table_row(row: dict[str, Any], head: str) -> dict[str, object]:
    """What the page's table says of a lag."""
    found: dict[str, object] = {"lag, ms": Number(str(int(row["lags"])))}
    for prefix, label in {**CURVES, **CONTROLS}.items():
        if f"{prefix}_{head}_mean" in row:
            mean, spread = (row[f"{prefix}_{head}_{k}"] for k in ("mean", "std"))
            found[label] = Number(f"{mean:.3f} ({spread:.3f})")
    for key in ("test_word_avg_auc_roc_mean", "test_word_top_10_mean", "p_corrected"):
        if key in row:
            name = key.removeprefix("test_").removesuffix("_mean").replace("_", " ")
            found[name] = Number(f"{row[key]:.3f}")
    return found


def pictures(folder, stage, series, cells, rows, head: str, lag: int) -> list[str]:
    """Files of the figures; a line each for the page."""
    lags, curves = [int(row["lags"]) for row in rows], {}
    for prefix, label in {**CURVES, **CONTROLS}.items():
        if f"{prefix}_{head}_mean" in rows[0]:
            spread = curve(rows, f"{prefix}_{head}_std") if prefix in CURVES else None
            curves[label] = curve(rows, f"{prefix}_{head}_mean"), spread
    if head in CHANCE:
        curves["chance"] = np.full(len(lags), CHANCE[head]), None
    try:
        save_lags(
            folder / "score_over_lag.png", lags, curves, head.replace("_", " "), stage.trial_name
        )
        weights, places = weights_of(folder, cells, lag), places_of(series)
        known = np.isfinite(places).all(axis=1)
        if weights is not None and len(weights) == len(places) and known.any():
            title = f"{stage.trial_name}: weights of the ridge at {lag} ms"
            save_electrodes(folder / "electrodes.png", places[known], weights[known], title)
    except ImportError as e:
        log.note(f"no pictures ({e}); pip install 'ndt3_dist[report]'")
    names = [p.name for p in sorted(folder.glob("*.png"))]
    return [section("Pictures", *(f"<p>{sentence(Name(name))}</p>" for name in names))]


def weights_of(folder: Path, cells: Sequence[Cell], lag: int) -> np.ndarray | None:
    """Mean over folds of how much the ridge takes from each channel at a lag, (channels,)."""
    found = []
    for cell in cells:
        path = folder / "cells" / f"{cell.name}.npz"
        if cell.lag == lag and path.is_file():
            with np.load(path, allow_pickle=False) as held:
                found += [held["weights"]] if "weights" in held.files else []
    return np.mean(found, axis=0) if found else None


def places_of(series: Sequence[Series]) -> np.ndarray:
    """x, y, z in mm of all channels, NaN where unknown, (channels, 3)."""
    nowhere = (np.nan,) * 3
    return np.array([p or nowhere for one in series for p in one.places], float).reshape(-1, 3)

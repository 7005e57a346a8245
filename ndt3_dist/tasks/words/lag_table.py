"""Scores of all cells by lag: `lag_performance.csv`, with the podcast benchmark's column names.

A row for each lag that has a cell. `PART_SCORE_mean` and `_std` are over folds (and seeds), and
`PART_SCORE_fold_K` is of one fold; scores of words are `test_word_...`. Baselines and controls
stand beside the model's as `test_NAME_SCORE_mean`, NAME being ridge, logistic, linear, mean (the
mean of training targets as the prediction of every word) or shuffled (the model's predictions
against the truth of other words). `p` is of the headline score, `p_corrected` for all lags
together.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import storage
from ndt3_dist.tasks.words.cell import Cell
from ndt3_dist.tasks.words.cell_scores import PARTS
from ndt3_dist.tasks.words.scores.fold_scores import HEADLINE, corrected_p

CONTROLS = "ridge", "logistic", "linear", "mean", "shuffled"


def read_cells(folder: Path, cells: Sequence[Cell]) -> dict[int, list[dict[str, Any]]]:
    """Results by lag, in order, of the cells that are done."""
    found: dict[int, list[dict[str, Any]]] = {}
    for cell in sorted(cells):
        path = folder / "cells" / f"{cell.name}.json"
        if path.is_file():
            found.setdefault(cell.lag, []).append(storage.read_json(path))
    return found


def headline_of(results: Sequence[dict]) -> str:
    """The score that stands for all, of what cells have."""
    known = results[0]["scores"]["test"]
    for name in ("pairwise_accuracy", "roc_auc", "roc_auc_multiclass", HEADLINE["number"]):
        if name in known:
            return name
    raise AssertionError(known)


def rows_of(by_lag: dict[int, list[dict]]) -> list[dict[str, float]]:
    """A row for each lag, all with the same keys."""
    p_values = ps_of(by_lag)
    found = []
    for lag, results in by_lag.items():
        row: dict[str, float] = {}
        for part in (*PARTS, *(c for c in CONTROLS if c in results[0]["scores"])):
            prefix = part if part in PARTS else f"test_{part}"
            for name in results[0]["scores"][part]:
                put(
                    row,
                    f"{prefix}_{name}",
                    results,
                    lambda r, p=part, n=name: r["scores"][p].get(n),
                )
        put(row, "num_epochs", results, lambda r: r["num_epochs"])
        for name in ("train", "val", "test", "purged"):
            row[f"words_{name}_mean"] = float(np.mean([r["words"][name] for r in results]))
        found.append({**row, **p_values.get(lag, {}), "lags": lag})
    return found


def put(row: dict[str, float], name: str, results: Sequence[dict], value) -> None:
    """Mean and standard deviation over cells, and each fold's own."""
    values = [math.nan if value(r) is None else float(value(r)) for r in results]
    known = [v for v in values if not math.isnan(v)]
    row[f"{name}_mean"] = float(np.mean(known)) if known else math.nan
    row[f"{name}_std"] = float(np.std(known)) if known else math.nan
    for fold in sorted({r["fold"] for r in results}):
        mine = [v for v, r in zip(values, results, strict=True) if r["fold"] == fold]
        row[f"{name}_fold_{fold}"] = float(np.mean(mine))


def ps_of(by_lag: dict[int, list[dict]]) -> dict[int, dict[str, float]]:
    """p-values of each lag by decoder; {} where nothing was permuted."""
    found: dict[int, dict[str, float]] = {lag: {} for lag in by_lag}
    first = next(iter(by_lag.values()), [])
    for name in first[0].get("null", {}) if first else ():
        part = "test" if name == "model" else name
        head, null, observed = headline_of(first), [], []
        for results in by_lag.values():
            null.append(np.mean([r["null"][name] for r in results], axis=0))
            observed.append(np.mean([r["scores"][part][head] or math.nan for r in results]))
        if not np.size(null[0]):
            return {}
        alone, corrected = corrected_p(np.array(observed), np.array(null, float))
        prefix = "" if name == "model" else f"{name}_"
        for lag, a, c in zip(by_lag, alone, corrected, strict=True):
            found[lag] |= {f"{prefix}p": float(a), f"{prefix}p_corrected": float(c)}
    return found


def write_table(folder: Path, cells: Sequence[Cell]) -> list[dict[str, float]]:
    """Write the table anew of all cells that are done; its rows."""
    rows = rows_of(read_cells(folder, cells))
    if rows:
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row if name != "lags"))
        writer = csv.DictWriter(text, [*names, "lags"], restval="")
        writer.writeheader()
        writer.writerows(rows)
        storage.write_bytes(folder / "lag_performance.csv", text.getvalue().encode())
        write_predictions(folder, cells)
    return rows


def write_predictions(folder: Path, cells: Sequence[Cell]) -> None:
    """One .npz of each lag: truth and predictions of all folds' test words, in order of time.

    Its arrays: word, start (s), fold, true, and predicted_NAME of the model and each baseline.
    """
    for lag in sorted({cell.lag for cell in cells}):
        parts: list[dict[str, Any]]
        path, parts = folder / "predictions" / f"lag_{lag}.npz", []
        for cell in sorted(c for c in cells if c.lag == lag):
            held = folder / "cells" / f"{cell.name}.npz"
            if held.is_file() and held.with_suffix(".json").is_file():
                with np.load(held, allow_pickle=False) as file:
                    one = {k: file[k] for k in file.files if k not in ("weights", "row")}
                    number = len(file["row"])
                extra = {"fold": np.full(number, cell.fold), "seed": np.full(number, cell.seed)}
                parts.append({**one, **extra})
        if not parts:
            continue
        joined: dict[str, Any] = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
        order = np.argsort(joined["start"], kind="stable")
        with storage.atomic_file(path) as file:
            np.savez(file, **{name: values[order] for name, values in joined.items()})

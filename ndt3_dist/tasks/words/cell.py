"""One cell of an experiment: a lag, a fold and a seed, from features to scores and predictions.

A cell is a function of the stage's folder and its own three numbers, so that any process may run it
and a killed experiment goes on. Its JSON is written last: without it the cell was never run.
Whatever is fitted (means, deviations, PCA, penalties) sees training words alone, and what is chosen
is chosen by validation words.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndt3_dist import storage
from ndt3_dist.data.order import generator, seed_of
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.build_model import build, save_weights
from ndt3_dist.tasks.words.cell_scores import PARTS, Words, baselines, score_of, users_metrics
from ndt3_dist.tasks.words.decoders.fit_decoder import Inputs, fit, outputs
from ndt3_dist.tasks.words.decoders.word_losses import LOSSES, default_losses, total
from ndt3_dist.tasks.words.plug_in import find
from ndt3_dist.tasks.words.scores import fold_scores
from ndt3_dist.tasks.words.word_config import Experiment
from ndt3_dist.tasks.words.word_folds import Fold, word_folds
from ndt3_dist.tasks.words.word_targets import Examples


@dataclass(frozen=True, order=True)
class Cell:
    """Which one: lag in ms, number of the fold, seed."""

    lag: int
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"lag_{self.lag}_fold{self.fold}_seed{self.seed}"


def load_stage(folder: Path) -> Experiment:
    """The resolved config of a stage's folder."""
    return Experiment.model_validate(storage.read_json(folder / "config.json"))


def save_examples(path: Path, examples: Examples) -> None:
    more: dict[str, Any] = {f"more_{name}": v for name, v in examples.more.items()}
    text = np.array(examples.text, dtype=str)
    with storage.atomic_file(path) as file:
        np.savez(
            file,
            start=examples.start,
            text=text,
            target=examples.target,
            kind=np.array(examples.kind),
            **more,
        )


def load_examples(path: Path) -> Examples:
    with np.load(path, allow_pickle=False) as held:
        more = {k.removeprefix("more_"): held[k] for k in held.files if k.startswith("more_")}
        kind, text = str(held["kind"]), held["text"].tolist()
        return Examples(held["start"], text, held["target"], kind, more)


def folds_of(stage: Experiment, examples: Examples) -> list[Fold]:
    """All folds of a stage's words."""
    asked = stage.training_params
    return word_folds(
        examples.start,
        examples.text,
        asked.n_folds,
        asked.fold_type,
        stage.gap_s,
        asked.random_seed,
    )


@dataclass(frozen=True)
class Fitting:
    """What is fitted to training words before any decoder is.

    Attributes:
        x: Features of all words, standardised, (words, ...) float32.
        y: Targets of all words, in principal components where asked for.
    """

    x: np.ndarray
    y: np.ndarray


def fitted(stage: Experiment, x: np.ndarray, examples: Examples, train: np.ndarray) -> Fitting:
    """Standardise and reduce by training words alone."""
    y = examples.target
    if stage.data.standardise:
        mean, deviation = x[train].mean(0, dtype=np.float64), x[train].std(0, dtype=np.float64)
        deviation[deviation < 1e-12] = 1
        x = ((x - mean) / deviation).astype(np.float32)
    dims = stage.task_config.task_specific_config.get("embedding_pca_dim")
    if examples.kind == "vector" and dims and int(dims) < y.shape[1]:
        y = principal(y, train, int(dims))
    if stage.training_params.normalize_targets and examples.kind != "class":
        deviation = np.asarray(y[train].std(0))
        y = (y - y[train].mean(0)) / np.where(deviation > 0, deviation, 1)
    return Fitting(np.asarray(x, np.float32), y)


def principal(y: np.ndarray, train: np.ndarray, dims: int) -> np.ndarray:
    """All rows in the first principal components of the training rows, (rows, dims) float32."""
    mean = y[train].mean(0, dtype=np.float64)
    _, _, axes = np.linalg.svd(y[train] - mean, full_matrices=False)
    if len(axes) < dims:
        raise BadInput(f"embedding_pca_dim {dims}: {len(train)} training words give {len(axes)}")
    return ((y - mean) @ axes[:dims].T).astype(np.float32)


def run_cell(folder: str, lag: int, fold: int, seed: int, one_thread: bool = False) -> dict:
    """Run a cell, or find it done; what its JSON holds."""
    cell, where = Cell(lag, fold, seed), Path(folder)
    path = where / "cells" / f"{cell.name}.json"
    if path.is_file():
        return storage.read_json(path)
    if one_thread:  # a worker among others
        torch.set_num_threads(1)
    stage, examples = load_stage(where), load_examples(where / "examples.npz")
    part = folds_of(stage, examples)[fold - 1]
    x = np.load(where / "features" / f"lag_{lag}.npy", mmap_mode="r")
    made = fitted(stage, np.asarray(x), examples, part.train)
    held: dict[str, Any]
    found, held = scored(stage, examples, made, part, cell)
    with storage.atomic_file(path.with_suffix(".npz")) as file:
        np.savez(file, **held)
    storage.write_bytes(path, json.dumps(found, indent=1).encode() + b"\n")
    return found


def scored(stage: Experiment, examples: Examples, made: Fitting, part: Fold, cell: Cell):
    """What a cell's JSON and its predictions hold."""
    asked, kind, y = stage.training_params, examples.kind, made.y
    train, val, test = part.train, part.val, part.test
    taught = shuffled(y, part, cell.seed) if asked.shuffle_targets else y
    inputs: Inputs = {"x": torch.from_numpy(made.x)}
    inputs |= {name: torch.from_numpy(np.asarray(v)) for name, v in examples.more.items()}
    torch.manual_seed(seed_of("weights", cell.seed, cell.lag, cell.fold))
    model = build(stage, made.x.shape, y, examples, cell)
    target = torch.from_numpy(taught if kind == "class" else taught.astype(np.float32))
    few = train[: min(4, len(train))]
    names = asked.names_of_losses() or default_losses(
        kind, torch.from_numpy(outputs(model, inputs, few))
    )
    losses = [find(name, "losses", LOSSES, stage.plugins) for name in names]
    loss = total(losses, asked.loss_weights or [1.0] * len(losses))

    def share(raw: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-raw)) if "bce_with_logits" in names else raw

    metric = asked.early_stopping_metric or fold_scores.headline(kind, examples.classes)
    score = score_of(stage, metric, kind, taught[val], loss, share)
    lower = asked.smaller_is_better
    higher = not (fold_scores.is_lower_better(metric) if lower is None else lower)
    training = fit(model, inputs, target, train, val, loss, score, higher, asked, cell.seed)
    told = {
        name: share(outputs(model, inputs, rows))
        for name, rows in zip(PARTS, (train, val, test), strict=True)
    }
    save_weights(stage, model, cell)
    found: dict[str, Any] = {
        "lag": cell.lag,
        "fold": cell.fold,
        "seed": cell.seed,
        "num_epochs": training.epoch,
        "epochs_run": training.epochs,
        "words": {"train": len(train), "val": len(val), "test": len(test), "purged": part.purged},
        "scores": {},
    }
    for name, rows in zip(PARTS, (train, val, test), strict=True):
        every = fold_scores.plain_scores(kind, told[name], y[rows])
        every |= users_metrics(stage, told[name], y[rows])
        found["scores"][name] = every
    words = Words(stage, examples, part, kind)
    found["scores"]["test"] |= words.scores(told["test"], y, told["val"])
    every = {"model": told["test"], **baselines(stage, examples, made.x, taught, part)}
    weights = every.pop("weights", None)
    for name, predicted in every.items():
        if name != "model":
            found["scores"][name] = fold_scores.plain_scores(kind, predicted, y[test])
            found["scores"][name] |= words.scores(predicted, y, None)
    how = "shuffle" if asked.is_zero_shot() else "shift"
    turned = fold_scores.null_orders(1, len(test), how, seed=cell.seed)[0]
    found["scores"]["shuffled"] = fold_scores.plain_scores(kind, told["test"], y[test][turned])
    orders = fold_scores.null_orders(asked.permutations, len(test), how)
    for name, predicted in every.items():
        if name in ("model", "ridge", "logistic"):
            null = fold_scores.null_statistics(kind, predicted, y[test], orders)
            found.setdefault("null", {})[name] = null.tolist()
    held = {f"predicted_{name}": values for name, values in every.items()}
    held |= {"row": test, "word": np.array(examples.text, dtype=str)[test], "true": y[test]}
    held |= {"start": examples.start[test]}
    return finite(found), held if weights is None else {**held, "weights": weights}


def finite(values: Any) -> Any:
    """NaN as None, which JSON has."""
    if isinstance(values, dict):
        return {k: finite(v) for k, v in values.items()}
    if isinstance(values, list):
        return [finite(v) for v in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values


def shuffled(y: np.ndarray, part: Fold, seed: int) -> np.ndarray:
    """Targets of training and validation words dealt anew, each among their own."""
    found = y.copy()
    for rows in (part.train, part.val):
        found[rows] = y[generator("shuffled", seed, len(rows)).permutation(rows)]
    return found

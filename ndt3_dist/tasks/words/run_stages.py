"""Run an experiment: its data once, the features of each lag, then every cell, here or on Ray.

What is done stays: a cell by its JSON, the features of a lag by their file. The same command goes
on with a killed experiment; one with another config is refused in the same folder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.workers import own_process, run_here
from ndt3_dist.tasks.words.cell import Cell, folds_of, run_cell, save_examples
from ndt3_dist.tasks.words.lag_features import make_features
from ndt3_dist.tasks.words.lag_table import write_table
from ndt3_dist.tasks.words.plug_in import after_setters, examples_of, with_model_columns
from ndt3_dist.tasks.words.prepare_words import corpus_of, series_of
from ndt3_dist.tasks.words.series import Series, has_window
from ndt3_dist.tasks.words.word_config import Experiment
from ndt3_dist.tasks.words.word_folds import lags_of
from ndt3_dist.tasks.words.words_page import write_page

FEW = 8
"""Cells that are run in this process where nothing else is said."""
PLACES = {"output_dir", "checkpoint_dir", "tensorboard_dir", "plugins"}
"""Keys that decide no score."""


class cells_pool(ray_pool):
    """A Ray to run cells on."""

    INSTEAD = "--workers 0 runs cells in this process without it"


def run(stages: Sequence[Experiment], workers: int | str = "auto", address: str = "") -> list[Path]:
    """Run stages in order; the folder of each.

    Args:
        workers: Of a Ray of our own; 0 = this process; auto = this process for a few cells.
        address: Of a Ray that runs already.
    """
    found, before = [], ""
    for stage in stages:
        found.append(run_stage(after(stage, before), workers, address))
        before = str(Path(stage.checkpoint_dir).absolute() / stage.trial_name)
    return found


def after(stage: Experiment, before: str) -> Experiment:
    """A stage that begins with weights of the one before."""
    if not before:
        return stage
    values = stage.model_dump()

    def fill(spec: dict) -> None:
        if spec["checkpoint_path"]:
            told = spec["checkpoint_path"].replace("{prev_checkpoint_dir}", before)
            spec["checkpoint_path"] = told
        for inner in spec["sub_models"].values():
            fill(inner)

    fill(values["model_spec"])
    return Experiment.model_validate(values)


def run_stage(stage: Experiment, workers: int | str = "auto", address: str = "") -> Path:
    """Run what is left of a stage, and write its table and page."""
    # A worker has a working folder of its own.
    places = {k: str(Path(getattr(stage, k)).absolute()) for k in ("output_dir", "checkpoint_dir")}
    stage = stage.model_copy(update=places)
    asked, folder = stage.training_params, Path(stage.output_dir) / stage.trial_name
    lags = lags_of(asked.min_lag, asked.max_lag, asked.lag_step_size, asked.lag)
    corpus = corpus_of(stage, workers, address)
    series = series_of(stage, corpus, Path(stage.output_dir) / "cache")
    stage = begin(stage, folder, series, lags)
    cells = cells_of(stage, lags)
    left = [c for c in cells if not (folder / "cells" / f"{c.name}.json").is_file()]
    log.say(f"{folder}: {len(cells)} cells, {len(cells) - len(left)} done")
    if left:
        with pool(workers, address, len(left)) as run_all:
            run_left(stage, folder, series, left, run_all)
    write_table(folder, cells)
    write_page(folder, stage, series, cells)
    log.say(str(folder / "lag_performance.csv"))
    log.say(str(folder / "report.html"))
    return folder


def pool(workers: int | str, address: str, cells: int):
    if not address and (workers == 0 or (workers == "auto" and cells <= FEW)):
        return own_process()
    return cells_pool(Recipe(dataset="words", num_workers=workers, ray_address=address), cells)  # pyright: ignore


def begin(
    stage: Experiment, folder: Path, series: Sequence[Series], lags: Sequence[int]
) -> Experiment:
    """Claim the folder: the config that setters leave, and the examples that all cells share.

    Raises:
        BadInput: The folder has results of another config, or no word has all its windows.
    """
    onsets = series[0].onsets
    if any(one.onsets.keys() != onsets.keys() for one in series):
        log.warn(f"recordings hold different words; those of {series[0].session} are taken")
    examples = with_model_columns(stage, series, examples_of(stage, onsets))
    stage = after_setters(stage, series, examples)
    kept = np.flatnonzero(has_window(series, examples.start, lags, stage.data.window_width))
    if not len(kept):
        raise BadInput(
            f"none of {len(examples)} words has its windows at {lags[0]} to {lags[-1]} ms inside "
            "of the recordings; choose narrower lags"
        )
    if len(kept) < len(examples):
        log.say(f"{len(examples) - len(kept)} of {len(examples)} words have no window at some lag")
    examples = examples.take(kept)
    folds_of(stage, examples)  # fails here, and not in each cell
    said = {"channels": [[s.session, list(s.labels)] for s in series], "words": len(examples)}
    identity = {**stage.model_dump(mode="json", exclude=PLACES), **said}
    identity["training_params"].pop("fold_ids")
    mark, found = folder / "identity.json", storage.sha256_bytes(storage.canonical_json(identity))
    if mark.is_file() and storage.read_json(mark)["sha256"] != found:
        raise BadInput(
            f"{folder}: has results of another config (config.yaml there); choose another "
            "trial_name, or remove the folder"
        )
    dumped = stage.model_dump(mode="json")
    storage.write_json(folder / "config.json", dumped)
    storage.write_bytes(folder / "config.yaml", yaml.safe_dump(dumped, sort_keys=False).encode())
    save_examples(folder / "examples.npz", examples)
    storage.write_json(mark, {"sha256": found})
    (folder / "features").mkdir(exist_ok=True)
    return stage


def cells_of(stage: Experiment, lags: Sequence[int]) -> list[Cell]:
    """All cells in order. Raises BadInput for a fold that is not there."""
    asked = stage.training_params
    folds = asked.fold_ids or list(range(1, asked.n_folds + 1))
    if lost := [f for f in folds if not 1 <= f <= asked.n_folds]:
        raise BadInput(f"fold_ids {lost}: expected 1 to {asked.n_folds}")
    seeds = asked.seeds or [asked.random_seed]
    return [Cell(lag, fold, seed) for lag in lags for fold in folds for seed in seeds]


def features_task(
    stage: Experiment, series: Sequence[Series], starts: np.ndarray, lag: int, folder: str
) -> None:
    make_features(stage, series, starts, lag, Path(folder) / "features" / f"lag_{lag}.npy")


def run_left(stage: Experiment, folder: Path, series, left: Sequence[Cell], run_all) -> None:
    """The features of lags that have cells left, then these; the first error ends it."""
    with np.load(folder / "examples.npz", allow_pickle=False) as held:
        starts = held["start"]
    where, lags = str(folder.absolute()), sorted({cell.lag for cell in left})
    tasks = [(stage, list(series), starts, lag, where) for lag in lags]
    finish(run_all(features_task, tasks), "features, lags", len(lags))
    tasks = [(where, c.lag, c.fold, c.seed, run_all is not run_here) for c in left]
    finish(run_all(run_cell, tasks), "cells", len(left))


def finish(running, label: str, total: int) -> None:
    for _, result in log.progress(running, label, total):
        if isinstance(result, BaseException):
            raise result

"""One cell of a curve: a decoder that is fitted, or fitted here, and what it makes of test bins."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndt3_dist.evaluate.decode import predict
from ndt3_dist.evaluate.ridge import fit_ridge
from ndt3_dist.evaluate.session import (
    TestData,
    export_scale,
    read_test_data,
)
from ndt3_dist.model.load import load_model
from ndt3_dist.model.readout import load_readout
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tasks.curve.cascade import fit_cascade, histories
from ndt3_dist.tasks.curve.gru import load_gru
from ndt3_dist.tune.fit_data import FitData, read_fit_data
from ndt3_dist.tune.tune_config import TuneConfig


def one_cell(decoder: str, config: dict, test: str, run: str = "") -> dict[str, Any]:
    """Scores of a decoder on the test bins, in raw units, and what was chosen for it.

    Args:
        decoder: One of `cells.DECODERS`.
        config: Of the cell, as plain data: its session, its amount, its seed.
        test: Split to score.
        run: Folder of the run that fitted it, where a network is scored.
    Returns:
        scores (`evaluate.metrics.r2_scores`), chosen, held_back (R2; of a network None, for its
        search knows it), seconds that fitting and scoring took here.
    """
    began, asked = time.perf_counter(), TuneConfig.model_validate(config)
    data = read_test_data(asked.data.corpus, asked.data.session, test)
    data = data.only(asked.data.covariates or data.names)
    held, picked = None, {}
    if decoder in ("ridge", "wiener"):
        predicted, held, picked = linear(decoder, read_fit_data(asked), data)
    elif decoder == "gru":
        model = load_gru(Path(run))
        predicted = np.concatenate([model.of_piece(piece) for piece in data.pieces])
    else:
        predicted = of_export(str(Path(run) / "export"), data)
    found = {"scores": plain(data.score(predicted)), "chosen": picked, "held_back": plain(held)}
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


def linear(decoder: str, fit: FitData, data: TestData) -> tuple[np.ndarray, float, dict]:
    """Predictions of a ridge or a cascade, R2 of held-back bins, and what these chose."""
    picked: dict[str, Any] = {}
    if decoder == "wiener":
        model = fit_cascade(fit)
        ridge, held = model.ridge, model.r2_held_back
        picked["orders"] = model.orders
    else:
        model = ridge = fit_ridge(fit.pieces, histories(sum(map(len, fit.pieces))))
        held = ridge.r2_folds
    picked |= {"history": ridge.history, "penalty": ridge.penalty}
    return np.concatenate([model.predict(piece) for piece in data.pieces]), held, picked


def of_export(folder: str, data: TestData) -> np.ndarray:
    """Predictions of a fine-tune, in stored units; attention reaches over a window of bins."""
    model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
    window = data.manifest.window_bins
    readout = load_readout(folder, data.session.id, data.pieces[0].spikes.shape[1])
    layout = Layout.of(data.session, model.config)
    found = [predict(model, p, layout, window, readout=readout)[0] for p in data.pieces]
    return np.concatenate(found) * export_scale(folder, data) / data.scale


def plain(value: Any) -> Any:
    """For JSON, which has no NaN: None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

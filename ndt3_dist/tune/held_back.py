"""Scores of the last part of a fit split, which is held back (`train.run.Validator`)."""

import math
import time
from typing import Any

import numpy as np
import torch

from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.metrics import bits_per_spike, r2_scores
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tune.fit_data import FitData


class HeldBack:
    """Decoded with a sliding context, as online."""

    def __init__(self, data: FitData, model):
        self.data, self.layout = data, Layout.of(data.session, model.config)
        self.truth = np.concatenate([r.covariates for r in data.last])
        self.counts = np.concatenate([r.spikes for r in data.last])

    def scores(self, engine: Any, device: torch.device) -> dict[str, float]:
        began, window = time.perf_counter(), self.data.window
        with engine.evaluating():
            found = [
                slide(engine.model, r, self.layout, window, with_rates=True) for r in self.data.last
            ]
        rates = np.concatenate([rates for _, rates in found if rates is not None])
        predicted = np.concatenate([predicted for predicted, _ in found])
        r2 = {"r2": math.nan, "r2_uniform": math.nan}
        if self.truth.size:
            r2 = r2_scores(self.truth, predicted)
        return {
            "val_r2": r2["r2"],
            "val_r2_uniform": r2["r2_uniform"],
            "val_bits_per_spike": bits_per_spike(self.counts, rates),
            "val_s": time.perf_counter() - began,
        }

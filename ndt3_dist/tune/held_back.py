"""Scores of the last part of each fit split, which is held back (`train.run.Validator`)."""

import time
from typing import Any

import numpy as np
import torch

from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.metrics import bits_per_spike, mean, r2_scores
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tune.fit_data import FitData


class HeldBack:
    """Decoded with a sliding context, as online. A score is the mean of sessions; of several each
    has its own as `SCORE/SESSION`."""

    def __init__(self, fitted: list[FitData], has_labels: bool = True):
        """
        Args:
            has_labels: Whether covariates are scored, too.
        """
        self.fitted, self.has_labels = fitted, has_labels

    def scores(self, engine: Any, device: torch.device) -> dict[str, float]:
        began = time.perf_counter()
        with engine.evaluating():
            found = self.of(engine.model)
        return {**found, "val_s": time.perf_counter() - began}

    def of(self, model: NDT3) -> dict[str, float]:
        """Of a model in evaluation mode."""
        each = [(data.session.id, self._session(model, data)) for data in self.fitted]
        found = {key: mean([scores[key] for _, scores in each]) for key in each[0][1]}
        if len(each) > 1:
            found |= {f"{k}/{name}": v for name, scores in each for k, v in scores.items()}
        return found

    def _session(self, model: NDT3, data: FitData) -> dict[str, float]:
        layout, window = Layout.of(data.session, model.config), data.window
        decoded = [slide(model, r, layout, window, with_rates=True) for r in data.last]
        rates = np.concatenate([rates for _, rates in decoded if rates is not None])
        counts = np.concatenate([r.spikes for r in data.last])
        found = {"val_bits_per_spike": bits_per_spike(counts, rates)}
        if not self.has_labels:
            return found
        truth = np.concatenate([r.covariates for r in data.last])
        r2 = r2_scores(truth, np.concatenate([predicted for predicted, _ in decoded]))
        return {"val_r2": r2["r2"], "val_r2_uniform": r2["r2_uniform"], **found}

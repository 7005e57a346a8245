"""Clips that are held out, scored as the official scorer does (`train.run.Validator`)."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ndt3_dist.tasks.fmri.clips.clip_source import Clip
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.parcel_score import Score, score

METRIC = "val_r"


@torch.no_grad()
def predict(model: Encoder, features: np.ndarray, device: torch.device) -> np.ndarray:
    """BOLD of a whole clip, (rows, subjects, parcels) float32, of features (rows, columns)."""
    inside = torch.ones(1, len(features), dtype=torch.bool, device=device)
    return model.predict(torch.from_numpy(features)[None].to(device), inside)[0].cpu().numpy()


class HeldOut:
    """Whole clips, their ends left out, films and subjects averaged."""

    def __init__(self, scales: ClipScales, clips: Sequence[Clip]):
        self.scales, self.clips = scales, clips

    def score(self, model: Encoder, device: torch.device) -> Score:
        """Of a model in evaluation mode; parcels that it predicts by a constant have r 0."""
        truth: dict[str, dict[str, np.ndarray]] = {}
        found: dict[str, dict[str, np.ndarray]] = {}
        for clip in self.clips:
            features, bold = self.scales.read(clip, 0, clip.rows)
            predicted = predict(model, features, device)
            for number, subject in enumerate(self.scales.source.subjects):
                known = np.isfinite(bold[:, number]).all(1)
                if known.any():
                    truth.setdefault(subject, {})[clip.id] = bold[known, number]
                    found.setdefault(subject, {})[clip.id] = predicted[known, number]
        return score(found, truth, still=0.0)

    def scores(self, engine: Any, device: torch.device) -> dict[str, float]:
        began = time.perf_counter()
        with engine.evaluating():
            found = self.score(engine.model, device)
        films = dict.fromkeys(film for films in found.films.values() for film in films)
        values = {METRIC: found.value}
        values |= {f"{METRIC}/{film}": found.of_film(film) for film in films}
        values |= {f"{METRIC}/{s}": value for s, value in found.subjects.items()}
        return {**values, "val_s": time.perf_counter() - began}


class EpochWeights:
    """Keeps the weights at the ends of epochs, beside what else is scored there.

    A file of each epoch, so that a run that was killed has the same average.
    """

    def __init__(self, inner: HeldOut | None, folder: Path, first: int, steps_of_epoch: int):
        """
        Args:
            first: Epoch from which on weights are kept.
            steps_of_epoch: Steps between two calls.
        """
        self.inner, self.folder, self.first = inner, folder, first
        self.number, self.steps_of_epoch = 0, steps_of_epoch

    def scores(self, engine: Any, device: torch.device) -> dict[str, float]:
        epoch = engine.adam_step() // self.steps_of_epoch
        if epoch >= self.first:
            self.folder.mkdir(exist_ok=True)
            part = self.folder / f".{epoch:06d}.tmp"
            save_file(engine.optimizer.snapshot(), str(part))
            part.replace(self.folder / f"{epoch:06d}.safetensors")
        return self.inner.scores(engine, device) if self.inner else {METRIC: float("nan")}

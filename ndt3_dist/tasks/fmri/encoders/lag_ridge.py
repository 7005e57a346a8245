"""Ridge regression on features of the last samples: the baseline that every encoder is set beside.

The products of features with themselves and with BOLD are added up clip by clip, so that memory
holds no more than a clip and those sums; penalties are chosen for each parcel on held-out clips.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ndt3_dist import log
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.ridge import lagged
from ndt3_dist.tasks.fmri.clips.clip_source import Clip
from ndt3_dist.tasks.fmri.encoders.clip_scales import ClipScales
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder
from ndt3_dist.tasks.fmri.parcel_score import pearson

MOST_COLUMNS = 20_000
"""Of lagged features: the products of more take above 3 GB, and hours."""
PENALTIES = np.logspace(0, 6, 13)


class LagRidge(Encoder):
    """Options besides those of all: lags (samples back, 0 to 7)."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.lags = [int(lag) for lag in options.get("lags", range(8))]
        columns = sum(self.dims.values()) * len(self.lags)
        if columns > MOST_COLUMNS:
            raise BadInput(
                f"a ridge of {columns:,} columns ({len(self.lags)} lags of all streams); expected "
                f"{MOST_COLUMNS:,} at most: choose fewer streams or lags, or kind conv_linear"
            )
        self.weights = nn.Parameter(torch.zeros(self.subjects, columns, self.parcels))
        self.offset = nn.Parameter(torch.zeros(self.subjects, self.parcels))

    def encode(self, streams: dict[str, torch.Tensor], inside: torch.Tensor) -> torch.Tensor:
        x = torch.cat([*streams.values()], dim=2)
        time = x.shape[1]
        moved = [nn.functional.pad(x, (0, 0, lag, 0))[:, :time] for lag in self.lags]
        found = torch.einsum("btk,skp->btsp", torch.cat(moved, dim=2), self.weights)
        return found + self.offset


class Products:
    """Sums over clips, of one subject: features with themselves and with BOLD."""

    def __init__(self, columns: int, parcels: int):
        self.rows = 0
        self.xx, self.xy = np.zeros((columns, columns)), np.zeros((columns, parcels))
        self.x, self.y = np.zeros(columns), np.zeros(parcels)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """x (rows, columns), y (rows, parcels), all finite."""
        self.rows += len(x)
        self.xx += x.T.astype(np.float64) @ x
        self.xy += x.T.astype(np.float64) @ y
        self.x += x.sum(0, dtype=np.float64)
        self.y += y.sum(0, dtype=np.float64)

    def solve(self, penalties: Sequence[float] | np.ndarray):
        """Weights (columns, parcels) and offsets (parcels,) for each penalty."""
        mean, offset = self.x / self.rows, self.y / self.rows
        values, vectors = np.linalg.eigh(self.xx - self.rows * np.outer(mean, mean))
        target = vectors.T @ (self.xy - self.rows * np.outer(mean, offset))
        for penalty in penalties:
            weights = vectors @ (target / (np.maximum(values, 0) + penalty)[:, None])
            yield weights, offset - mean @ weights


def rows_of(model: LagRidge, scales: ClipScales, clip: Clip):
    """Lagged features and BOLD of a clip, (rows, columns) and (rows, subjects, parcels)."""
    features, bold = scales.read(clip, 0, clip.rows)
    with torch.no_grad():
        if hasattr(model, "mean"):
            features = (features - model.mean.numpy()) * model.scale.numpy()
    return lagged(features, model.lags), bold


def fit_ridge(
    model: LagRidge,
    scales: ClipScales,
    first: Sequence[Clip],
    held: Sequence[Clip],
    penalties: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Fill a model's weights, subject by subject.

    Args:
        first, held: Clips to fit, and to choose penalties on.
        penalties: Of each subject and parcel, where they are known already.
    Returns:
        Those that were chosen.
    """
    chosen: dict[str, np.ndarray] = {}
    for number, subject in enumerate(scales.source.subjects):
        sums = Products(model.weights.shape[1], model.parcels)
        for clip in log.progress(first, f"ridge of {subject}, clips"):
            x, bold = rows_of(model, scales, clip)
            known = np.isfinite(bold[:, number]).all(1)
            sums.add(x[known], bold[known, number])
        if not sums.rows:
            raise BadInput(f"{subject} has no sample in the clips to train on")
        if penalties is None:
            chosen[subject] = choose(model, scales, held, number, sums)
        else:
            chosen[subject] = penalties[subject]
        wanted = np.unique(chosen[subject])
        with torch.no_grad():
            for penalty, (weights, offset) in zip(wanted, sums.solve(wanted), strict=True):
                mine = torch.from_numpy(chosen[subject] == penalty)
                model.weights[number][:, mine] = torch.from_numpy(weights).float()[:, mine]
                model.offset[number][mine] = torch.from_numpy(offset).float()[mine]
    return chosen


def choose(
    model: LagRidge, scales: ClipScales, held: Sequence[Clip], number: int, sums: Products
) -> np.ndarray:
    """The penalty of each parcel that predicts held-out clips best; one in the middle without."""
    parts = [rows_of(model, scales, clip) for clip in held]
    known = [np.isfinite(bold[:, number]).all(1) for _, bold in parts]
    if not parts or not np.concatenate(known).any():
        return np.full(model.parcels, PENALTIES[len(PENALTIES) // 2])
    x = np.concatenate([x[k] for (x, _), k in zip(parts, known, strict=True)])
    y = np.concatenate([bold[k, number] for (_, bold), k in zip(parts, known, strict=True)])
    found = [pearson(y, x @ w + b) for w, b in sums.solve(PENALTIES)]
    return PENALTIES[np.argmax(np.nan_to_num(np.array(found), nan=-1), axis=0)]

"""Mean and deviation of features and BOLD, measured clip by clip and kept with a run."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.clips.clip_source import Clip, ClipSource

ROWS = 128
"""Read at once."""


class ClipScales:
    """Clips in the units that models are trained in.

    Attributes:
        mean, scale: Of each column of the features; scale is 1 / deviation. (columns,) float32.
    """

    def __init__(self, source: ClipSource, values: dict[str, np.ndarray]):
        self.source, self.values = source, values
        self.mean, self.scale = values["feature_mean"], values["feature_scale"]
        self.row = {clip: i for i, clip in enumerate(source.clips)}
        self.lock = threading.Lock()  # a step is read while another is computed

    @classmethod
    def kept(cls, source: ClipSource, path: Path, first: Sequence[Clip], scale: bool):
        """Those of a run, measured where it has none yet.

        Args:
            path: Of the .npz in the run's folder.
            first: Clips whose features are measured, those that are trained on; empty = it has to
                be there.
            scale: False = means are 0 and deviations 1.
        """
        if not path.exists() and not first:
            raise BadInput(f"{path}: missing; restore it, or train the run anew")
        if not path.exists():
            values = measure(source, first, scale)
            with storage.atomic_file(path) as f:
                np.savez(f, **values)  # type: ignore[arg-type]
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        if len(values["feature_mean"]) != sum(source.dims.values()) or values[
            "bold_mean"
        ].shape != (len(source.clips), len(source.subjects), source.parcels):
            raise BadInput(f"{path}: of other streams, clips or subjects; use another run.name")
        return cls(source, values)

    def read(self, clip: Clip, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Features as they are, (rows, columns), and BOLD of mean 0 and deviation 1 over its run,
        (rows, subjects, parcels), NaN where there is none."""
        with self.lock:
            features = self.source.features(clip, start, stop)
            bold = self.source.bold(clip, start, stop)
        row = self.row[clip]
        return features, (bold - self.values["bold_mean"][row]) * self.values["bold_scale"][row]


def measure(source: ClipSource, first: Sequence[Clip], scale: bool) -> dict[str, np.ndarray]:
    """One pass over all clips, in memory for a few rows."""
    columns, taken = sum(source.dims.values()), set(first)
    total, squares, count = np.zeros(columns), np.zeros(columns), 0
    shape = len(source.clips), len(source.subjects), source.parcels
    found = {"bold_mean": np.zeros(shape, np.float32), "bold_scale": np.ones(shape, np.float32)}
    found |= {"feature_mean": np.zeros(columns, np.float32)}
    found |= {"feature_scale": np.ones(columns, np.float32)}
    if not scale:
        return found
    for i, clip in enumerate(log.progress(source.clips, "measuring clips")):
        bold = source.bold(clip, 0, clip.rows)
        there = np.isfinite(bold)
        n = np.maximum(there.sum(0), 1)
        mean = np.where(there, bold, 0).sum(0, dtype=np.float64) / n
        deviation = np.sqrt((np.where(there, bold - mean, 0) ** 2).sum(0) / n)
        found["bold_mean"][i] = mean
        found["bold_scale"][i] = 1 / np.where(deviation > 1e-8, deviation, 1)
        for start in range(0, clip.rows, ROWS) if clip in taken else ():
            x = source.features(clip, start, min(start + ROWS, clip.rows)).astype(np.float64)
            total, squares, count = total + x.sum(0), squares + (x**2).sum(0), count + len(x)
    mean = total / max(count, 1)
    spread = squares / max(count, 1) - mean**2
    varies = spread > 1e-10 * (squares / max(count, 1))
    found["feature_mean"] = mean.astype(np.float32)
    found["feature_scale"] = (1 / np.sqrt(np.where(varies, spread, 1))).astype(np.float32)
    return found

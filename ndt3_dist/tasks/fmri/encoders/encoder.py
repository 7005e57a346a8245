"""What all encoders share: the contract of `model.contract` around a function of features.

A window is some samples of a clip: the features of all streams side by side, and the BOLD of all
subjects. Windows of a micro-batch are padded to the longest. A model of its own kind says what it
predicts of them in `encode`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ndt3_dist.errors import BadInput
from ndt3_dist.model.contract import Output, Target
from ndt3_dist.tasks.fmri.encoders.bold_loss import SUMS

BOLD = "bold"
METRIC = "ndt3_dist.tasks.fmri.encoders.parcel_r:ParcelR"


class ClipPacking:
    """Windows of a corpus whose sessions are clips."""

    def __init__(self, sessions: Sequence[Any], dims: dict[str, int], columns: int, targets: int):
        self.sessions, self.dims = sessions, dims
        self.columns, self.targets = columns, targets

    def check(self, sessions: list[int]) -> None:
        for number in sessions:
            entry = self.sessions[number]
            found = {s.name: s.dims for s in entry.streams}
            if found != {**self.dims, BOLD: self.columns}:
                raise BadInput(
                    f"session {entry.id} has streams {found}; the model expects {self.dims} and "
                    f"{BOLD} of {self.columns} columns (model.streams, subjects, parcels)"
                )

    def tokens(self, index: np.ndarray) -> np.ndarray:
        return index["bins"].astype(np.int64)

    def counts(self, index: np.ndarray) -> np.ndarray:
        return np.repeat(index[BOLD]["values"].astype(np.int64)[:, None], self.targets, axis=1)

    def window(
        self, sample: dict[str, np.ndarray], session: int, draw: Callable[[], np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        features = np.concatenate([sample[name] for name in self.dims], axis=1, dtype=np.float32)
        return np.nan_to_num(features, posinf=0, neginf=0), sample[BOLD].astype(np.float32)

    def pack(self, windows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        return pack(windows)


def pack(windows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Windows end to end: features (rows, dims), bold (rows, columns), lengths (windows,)."""
    return {
        "features": np.concatenate([features for features, _ in windows]),
        "bold": np.concatenate([bold for _, bold in windows]),
        "lengths": np.array([len(features) for features, _ in windows], np.int64),
    }


class Encoder(nn.Module):
    """A model of BOLD; `encode` is that of its kind.

    Attributes:
        dims: Columns of each stream, in order.
        subjects, parcels: How many it predicts.
    """

    def __init__(self, options: dict[str, Any]):
        """
        Args:
            options: streams (name -> columns), subjects (names), parcels; pearson and mse: weights
                of the losses; stream_dropout: how often a stream is left out in training; scaled:
                whether the model has a mean and a scale for each column of the features.
        """
        super().__init__()
        self.dims = {str(k): int(v) for k, v in options["streams"].items()}
        self.subjects, self.parcels = len(options["subjects"]), int(options["parcels"])
        self.stream_dropout = float(options.get("stream_dropout", 0))
        weights = {name: float(options.get(name, 0)) for name in SUMS}
        if not any(weights.values()):
            weights["pearson"] = 1.0
        self.targets = tuple(
            Target(name, BOLD, f"{name} of parcels over time", weight, METRIC if not i else "")
            for i, (name, weight) in enumerate((n, w) for n, w in weights.items() if w)
        )
        if options.get("scaled"):
            columns = sum(self.dims.values())
            self.mean = nn.Parameter(torch.zeros(columns), requires_grad=False)
            self.scale = nn.Parameter(torch.ones(columns), requires_grad=False)

    def packing(self, sessions: Sequence[Any]) -> ClipPacking:
        return ClipPacking(sessions, self.dims, self.subjects * self.parcels, len(self.targets))

    def batch(self, arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
        """features (windows, time, dims), inside (windows, time) bool, bold (windows, time,
        subjects, parcels) with NaN where there is none."""
        lengths = arrays["lengths"].tolist()
        found = {}
        for name, filler in (("features", 0.0), ("bold", float("nan"))):
            parts = torch.from_numpy(arrays[name]).split(lengths)
            found[name] = nn.utils.rnn.pad_sequence(list(parts), True, filler).to(device)
        shape = *found["bold"].shape[:2], self.subjects, self.parcels
        found["bold"] = found["bold"].view(shape)
        inside = torch.arange(shape[1])[None] < torch.from_numpy(arrays["lengths"])[:, None]
        return {**found, "inside": inside.to(device)}

    def encode(self, streams: dict[str, torch.Tensor], inside: torch.Tensor) -> torch.Tensor:
        """BOLD of features.

        Args:
            streams: (windows, time, dims) of each, zero where not inside, all of it where a stream
                is left out of a window.
            inside: Which samples there are, (windows, time) bool.
        Returns:
            (windows, time, subjects, parcels).
        """
        raise NotImplementedError

    def predict(self, features: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """BOLD of features as they were read, (windows, time, subjects, parcels) float32."""
        dtype = next(p for p in self.parameters() if p.requires_grad).dtype
        if hasattr(self, "mean"):
            features = (features - self.mean.float()) * self.scale.float()
        features = torch.where(inside[..., None], features, 0).to(dtype)
        streams = dict(zip(self.dims, features.split([*self.dims.values()], 2), strict=True))
        if self.training and self.stream_dropout:
            kept = self.kept_streams(len(features), features.device)
            streams = {
                name: values * kept[:, i, None, None].to(dtype)
                for i, (name, values) in enumerate(streams.items())
            }
        return self.encode(streams, inside).float()

    def kept_streams(self, windows: int, device: torch.device) -> torch.Tensor:
        """Which streams each window keeps in training, at least one, (windows, streams) bool."""
        drawn = torch.rand(windows, len(self.dims), device=device)
        return (drawn >= self.stream_dropout) | (drawn == drawn.amax(1, keepdim=True))

    def forward(self, batch: dict[str, torch.Tensor], *divisors: float) -> Output:
        predicted = self.predict(batch["features"], batch["inside"])
        valid = torch.isfinite(batch["bold"])
        sums = [SUMS[t.name](predicted, batch["bold"], valid) for t in self.targets]
        each = zip(self.targets, sums, divisors, strict=True)
        loss = sum(t.weight * s.sum() / max(count, 1) for t, s, count in each)
        of_segment = torch.stack([s.detach() for s in sums], dim=1)
        details = {"segments": of_segment, "predicted": predicted.detach()}
        return Output(loss, of_segment.sum(0), details)  # type: ignore[arg-type]

    def by_segment(self, output: Output, batch: Any) -> torch.Tensor:
        return output.details["segments"].double()

    def predictions(self, output: Output, windows: list[Any]) -> list[dict[str, np.ndarray]]:
        found = output.details["predicted"].flatten(2).cpu().numpy()
        each = [found[i, : len(features)] for i, (features, _) in enumerate(windows)]
        return [{t.name: values for t in self.targets} for values in each]

    def operations(self, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
        rows = len(arrays["features"])
        return 2 * rows * sum(p.numel() for p in self.parameters() if p.requires_grad), 0


class SubjectHead(nn.Module):
    """From a common width to the parcels of each subject: one matrix for all, and one of each."""

    def __init__(self, width: int, subjects: int, parcels: int):
        super().__init__()
        self.shared = nn.Linear(width, parcels)
        self.own = nn.Parameter(torch.zeros(subjects, width, parcels))
        self.offset = nn.Parameter(torch.zeros(subjects, parcels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., subjects, parcels)."""
        own = torch.einsum("...w,swp->...sp", x, self.own)
        return self.shared(x)[..., None, :] + own + self.offset

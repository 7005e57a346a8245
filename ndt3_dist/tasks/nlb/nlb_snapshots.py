"""Snapshots of a training: weights with what decided them, and the rates that they predict.

    RUN/export/masked.safetensors  masked.json  unmasked.safetensors  unmasked.json

`masked` has the best loss of masked val trials, `unmasked` the best loss of held-in counts that are
given as they are. While a training goes on they lie in RUN/snapshots.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ndt3_dist import storage
from ndt3_dist.config import check
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.tasks.nlb.ndt1 import NDT1
from ndt3_dist.tasks.nlb.ndt1_config import Ndt1Config

UNDER_WAY = "snapshots"
"""Folder of a training that is not over."""
TRIALS_AT_ONCE = 64


@dataclass(frozen=True)
class Snapshot:
    """Weights of a model.

    Attributes:
        name: For people: TRIAL.KIND.
        path: The safetensors file; sha256 of it as it was written.
        model: Section `model`.
        scores: val_loss, val_loss_unmasked and others, and mostly the step.
        corpus: Fingerprint of the one that it was trained on; "" where that is not known.
    """

    name: str
    path: Path
    sha256: str
    model: dict[str, Any]
    scores: dict[str, float]
    corpus: str = ""

    def load(self) -> NDT1:
        """The model, ready to predict. Raises CheckpointCorrupt."""
        model = NDT1(check(Ndt1Config, self.model, str(self.path)))
        weights = read_weights(self.path)
        lost = {n for n, p in model.named_parameters()} ^ {*weights}
        if lost:
            raise CheckpointCorrupt(f"{self.path}: has other weights than its model: {min(lost)}")
        try:
            model.load_state_dict(weights)
        except RuntimeError as e:
            said = str(e).splitlines()[-1].strip()
            raise CheckpointCorrupt(f"{self.path}: does not fit its model ({said})") from e
        return model.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise CheckpointCorrupt(f"{path}: cannot be read ({e}); fetch it or train again") from e


def save_weights(
    path: Path,
    weights: dict[str, torch.Tensor],
    model: dict[str, Any],
    scores: dict[str, float],
    corpus: str = "",
) -> None:
    """Write weights; a line PATH.json beside them says what they are, and is written last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    save_file({n: w.detach().cpu().contiguous() for n, w in weights.items()}, str(partial))
    storage.as_new(partial)
    partial.replace(path)
    said = {"sha256": storage.sha256_file(path), "corpus": corpus, "scores": scores}
    storage.write_json(path.with_suffix(".json"), {**said, "model": model})


def open_snapshot(path: Path, name: str) -> Snapshot:
    """The snapshot of a safetensors file with its .json. Raises BadInput."""
    said = path.with_suffix(".json")
    try:
        found = storage.read_json(said)
        parts = found["sha256"], found["model"], found["scores"], found["corpus"]
        return Snapshot(name, path, *parts)
    except (OSError, KeyError, TypeError) as e:
        raise BadInput(f"{said}: no description of a snapshot ({e!r})") from e


def candidates(runs: Path) -> list[Snapshot]:
    """All snapshots below a folder: of a search, of trainings that are over, or converted ones.

    The same weights count once. Raises BadInput where there is none.
    """
    if not runs.is_dir():
        raise BadInput(f"{runs}: no such folder; expected that of a search or of trainings")
    found: dict[str, Snapshot] = {}
    for path in sorted(runs.rglob("*.safetensors")):
        if path.with_suffix(".json").exists() and path.parent.name != UNDER_WAY:
            parts = path.relative_to(runs).with_suffix("").parts
            name = "/".join(p for p in parts if p not in ("trials", "export", "seed0"))
            snapshot = open_snapshot(path, name)
            found.setdefault(snapshot.sha256, snapshot)
    if not found:
        raise BadInput(f"{runs} holds no snapshots; let a trial of ndt3 nlb search come to its end")
    return [*found.values()]


@torch.no_grad()
def rates_of(model: NDT1, heldin: np.ndarray) -> np.ndarray:
    """Expected counts of all units in trials and in the bins behind them.

    Args:
        heldin: Counts of held-in units, (trials, bins, units); NaN counts as none.
    Returns:
        (trials, bins + forward, held-in and then held-out units) float64.
    Raises:
        BadInput: The trials are not those that the model is made for.
    """
    c = model.config
    if heldin.ndim != 3 or heldin.shape[1:] != (c.bins, c.heldin):
        raise BadInput(
            f"trials of shape {heldin.shape[1:]} (bins, held-in units); the model is made for "
            f"({c.bins}, {c.heldin}): another dataset, bin size or set of units"
        )
    device = model.readout.weight.device
    found = []
    for first in range(0, len(heldin), TRIALS_AT_ONCE):
        some = np.nan_to_num(heldin[first : first + TRIALS_AT_ONCE])
        given = np.zeros((len(some), c.length, c.units), np.uint8)
        given[:, : c.bins, : c.heldin] = np.minimum(some, c.max_count)
        log_rates = model.log_rates(torch.from_numpy(given).to(device))
        found.append(log_rates.double().exp().cpu().numpy())
    return np.concatenate(found)

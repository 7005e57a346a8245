"""What an export may hold for a session beside the transformer, fitted to it in closed form.

A readout of covariates from the transformer's hidden states and from lagged counts, in place of its
own covariate head; and for each channel a gain on a power of what its spike head expects. Whoever
decodes asks for them with `load_readout`; `load_model` gives the transformer alone. In config.json
`readout` is what one session has, or a list where several have; the file's arrays have the names of
the only one, or begin with their number in the list and a point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import read_export_config

FILE = "readout.safetensors"
LEAST = 1e-3
"""Expected count that a lower one is taken for."""


@dataclass(frozen=True)
class Filters:
    """From hidden states and counts to covariates, in units of the session's scale.

    Attributes:
        hidden: Weights of a bin's hidden states, (dims * width, dims) float32.
        counts: Weights of the counts of a bin and of earlier ones, oldest first, (history,
            channels, dims) float32.
        offset: (dims,) float32.
    """

    hidden: np.ndarray
    counts: np.ndarray
    offset: np.ndarray

    def predict(self, hidden: np.ndarray, spikes: np.ndarray) -> np.ndarray:
        """Covariates of every bin; bins before the first count as silent.

        Args:
            hidden: Of consecutive bins, (bins, dims * width).
            spikes: Counts of these, (bins, channels).
        Returns:
            (bins, dims) float32.
        """
        history, bins = len(self.counts), len(spikes)
        found = hidden.astype(np.float32) @ self.hidden + self.offset
        for lag, weight in zip(range(history - 1, -1, -1), self.counts, strict=True):
            if lag < bins:
                found[lag:] += spikes[: bins - lag].astype(np.float32) @ weight
        return found

    def last(self, hidden: np.ndarray, spikes: np.ndarray) -> np.ndarray:
        """Covariates of one bin, (dims,), from its hidden states and the counts that end with it.

        Args:
            hidden: (dims * width,).
            spikes: (bins, channels), no more bins than `counts` has.
        """
        lagged = np.einsum("hc,hcd->d", spikes.astype(np.float32), self.counts[-len(spikes) :])
        return hidden.astype(np.float32) @ self.hidden + self.offset + lagged


@dataclass(frozen=True)
class Readout:
    """Attributes:
    session: Whose channels and covariates these are.
    gain, power: Of each channel's expected counts, (channels,) float32.
    filters: In place of the covariate head; None = that head.
    """

    session: str
    gain: np.ndarray
    power: np.ndarray
    filters: Filters | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "gain": self.gain,
            "power": self.power,
            **(vars(self.filters) if self.filters else {}),
        }

    def rates(self, expected: np.ndarray) -> np.ndarray:
        """Expected counts as the session has them, from the spike head's, (bins, channels)."""
        return self.gain * np.maximum(expected, LEAST) ** self.power

    @property
    def described(self) -> dict:
        """What an export's config.json says of it."""
        shapes = {name: list(array.shape) for name, array in self.arrays.items()}
        return {"session": self.session, "shapes": shapes}


def save_readouts(folder: str | Path, readouts: Sequence[Readout]) -> dict | list[dict]:
    """Write `FILE` into the folder of an export; what config.json is to say of it."""
    told = [readout.described for readout in readouts]
    prefixes = [""] if len(readouts) == 1 else [f"{number}." for number in range(len(readouts))]
    arrays = {
        prefix + name: np.ascontiguousarray(array)
        for prefix, readout in zip(prefixes, readouts, strict=True)
        for name, array in readout.arrays.items()
    }
    (Path(folder) / FILE).write_bytes(save(arrays))
    return told[0] if len(told) == 1 else told


def told_readouts(config: dict) -> list[dict]:
    """What an export's config.json says of its readouts, of each session."""
    told = config.get("readout") or []
    return told if isinstance(told, list) else [told]


def told_of(config: dict, session: str) -> dict[str, Any] | None:
    """What it says of a session's; None where that has none."""
    return next((t for t in told_readouts(config) if t.get("session") == session), None)


def load_readout(path: str | Path, session: str, channels: int) -> Readout | None:
    """What an export holds for a session; None where it has nothing for this one.

    Args:
        path: Folder of the export.
        session: Id of the session.
        channels: That it has now.
    Raises:
        BadInput: It was fitted to another number of channels.
        CheckpointCorrupt: config.json names it and its file is missing, damaged or another.
    """
    folder = Path(path)
    config = read_export_config(folder)
    told = told_of(config, session)
    if not told:
        return None
    several = told_readouts(config)
    prefix = f"{several.index(told)}." if len(several) > 1 else ""
    try:
        arrays = load_file(folder / FILE)
        arrays = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        gain, power = arrays.pop("gain"), arrays.pop("power")
        found = Readout(session, gain, power, Filters(**arrays) if arrays else None)
    except (SafetensorError, OSError, KeyError, TypeError) as e:
        raise CheckpointCorrupt(f"{folder / FILE}: cannot be read ({e}); fit it again") from e
    if found.described != told:
        raise CheckpointCorrupt(
            f"{folder / FILE}: arrays of shapes {found.described['shapes']}, config.json has "
            f"{told.get('shapes')}; fit it again"
        )
    if not all(np.isfinite(a).all() for a in found.arrays.values()):
        raise CheckpointCorrupt(f"{folder / FILE}: values that are not finite; fit it again")
    if len(gain) != channels:
        raise BadInput(
            f"{folder}: fitted to {len(gain)} channels of {session}, here it has {channels}; fit "
            "a decoder to these first"
        )
    return found

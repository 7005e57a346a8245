"""Features of a frozen model in the place of windows, computed once for each recording and lag.

An encoder has the signature of a preprocessor: `encode(data[words, electrodes, time], params)`
gives (words, ...), of one recording at a time; those of several stand side by side. What it gave is
kept below `cache/frozen` by what it depends on: recording, channels, moments, lag, params, and the
bytes of its checkpoint. Decoders and baselines then see
these features alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.plug_in import find
from ndt3_dist.tasks.words.series import Series
from ndt3_dist.tasks.words.word_config import Experiment

LEVEL, SPREAD, MOST = 3.0, 1.5, 12
"""Counts that a signal becomes: at its mean, more for each deviation, and at most."""
WORDS = 64
"""Of a pass."""


def encode_ndt3(data: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    """Hidden states of a pretrained NDT3, (words, dim, steps).

    NDT3 reads counts of bins: means of each bin, against mean and deviation of the channel in the
    window itself (so that no other word has a part in it), become whole numbers from 0 to `MOST`.

    Args:
        data: (words, electrodes, samples).
        params: checkpoint, the folder of an export; rate_hz of the samples (filled in by itself);
            bin_ms (20); steps (5), means over so many parts of the window; layers, blocks to go
            through (all).
    """
    import torch

    from ndt3_dist.model.load import load_model
    from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
    from ndt3_dist.model.tokens import PackedTokens

    model = load_model(params["checkpoint"])
    counts = as_counts(data, float(params["rate_hz"]), float(params.get("bin_ms", 20)))
    layout = Layout.from_counts([data.shape[1]], 0, model.config, "words")
    steps, bins, found = int(params.get("steps", 5)), counts.shape[1], []
    if not 1 <= steps <= bins:
        raise BadInput(f"encoder: steps {steps} of windows of {bins} bins")
    for first in range(0, len(counts), WORDS):
        part, lists = counts[first : first + WORDS], TokenLists()
        nothing = np.zeros((bins, 0), np.float32)
        for one in part:
            lists.add(*tokenise({"spikes": one, "covariates": nothing}, layout, model.config))
        tokens = PackedTokens.from_numpy(lists.pack(), model.sos.device)
        with torch.no_grad():
            states = model.features(tokens, params.get("layers"))[tokens.spike_slot].float()
        by_bin = states.reshape(len(part), bins, -1, states.shape[1]).mean(dim=2)  # over patches
        parts = by_bin.tensor_split(steps, dim=1)
        found.append(torch.stack([p.mean(dim=1) for p in parts], dim=2).numpy())
    return np.concatenate(found)  # (words, dim, steps)


def as_counts(data: np.ndarray, rate_hz: float, bin_ms: float) -> np.ndarray:
    """A signal as counts, (words, bins, electrodes) uint8."""
    bins = int(data.shape[2] / rate_hz * 1000 / bin_ms + 1e-6)
    edges = np.round(np.arange(bins + 1) * bin_ms * rate_hz / 1000).astype(int)
    if not bins or (np.diff(edges) < 1).any():
        raise BadInput(
            f"encoder: bins of {bin_ms:g} ms in {data.shape[2]} samples at {rate_hz:g} Hz"
        )
    sums = np.concatenate([np.zeros((*data.shape[:2], 1)), np.cumsum(data, 2, np.float64)], axis=2)
    means = (sums[..., edges[1:]] - sums[..., edges[:-1]]) / np.diff(edges)
    apart = means - means.mean(axis=2, keepdims=True)
    deviation = np.maximum(apart.std(axis=2, keepdims=True), 1e-12)
    counts = np.clip(np.round(LEVEL + SPREAD * apart / deviation), 0, MOST)
    return counts.transpose(0, 2, 1).astype(np.uint8)


ENCODERS: dict[str, Callable[[np.ndarray, dict], np.ndarray]] = {"ndt3": encode_ndt3}


def key_of(stage: Experiment, one: Series, starts: np.ndarray, lag: int) -> str:
    """What features depend on, as a name of 24 hex digits."""
    data, encoder = stage.data, dict(stage.model_spec.encoder or {})
    said = {
        "series": [one.path.parent.name, one.path.name, list(one.columns)],
        "starts": storage.sha256_bytes(np.ascontiguousarray(starts).tobytes()),
        "lag": lag,
        "window": [data.window_width, data.preprocessing_fn_name, data.preprocessor_params],
        "encoder": {k: v for k, v in encoder.items() if k != "checkpoint"},
        "weights": weights_hash(encoder.get("checkpoint")),
    }
    return storage.sha256_bytes(storage.canonical_json(said))[:24]


def weights_hash(checkpoint: str | None) -> list[str]:
    """Hashes of the files of a checkpoint. Raises BadInput where it is not there."""
    if checkpoint is None:
        return []
    path = Path(checkpoint)
    if not path.exists():
        raise BadInput(f"encoder.checkpoint {checkpoint}: no such file or folder")
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return [storage.sha256_file(p) for p in files]


def encoded(
    stage: Experiment,
    series: Sequence[Series],
    starts: np.ndarray,
    lag: int,
    folder: Path,
    windows_of: Callable[[Series], np.ndarray],
) -> np.ndarray:
    """Features of all recordings side by side, (words, features, ...) float32.

    Args:
        folder: Where they are kept.
        windows_of: A recording -> its windows behind preprocessing.
    """
    spec, found = dict(stage.model_spec.encoder or {}), []
    encode = find(str(spec.pop("call", "")), "encoder.call", ENCODERS, stage.plugins)
    for one in series:
        path = folder / f"{one.session}_lag_{lag}_{key_of(stage, one, starts, lag)}.npy"
        if not path.is_file():
            made = np.asarray(encode(windows_of(one), {"rate_hz": one.rate_hz, **spec}), np.float32)
            if len(made) != len(starts):
                raise BadInput(f"encoder gave {len(made)} rows of {len(starts)} words")
            with storage.atomic_file(path) as file:
                np.save(file, made)
        found.append(np.load(path))
    return np.concatenate(found, axis=1)

"""Simulated trials as the benchmark's tensors, and small trainings of NDT1 on them."""

from pathlib import Path

import numpy as np

from ndt3_dist.config import check
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.tasks.nlb.nlb_data import DataFolder
from ndt3_dist.tasks.nlb.nlb_search import base_of
from ndt3_dist.tasks.nlb.nlb_settings import config_of
from ndt3_dist.train.pretrain_config import PretrainConfig

SHORT = [
    "model.layers=1",
    "model.hidden=8",
    "train.epochs=12",
    "optim.decay_epochs=12",
    "optim.warmup_epochs=0",
    "validation.every_steps=2",
    "validation.patience=0",
]


def tensors_of(spikes: np.ndarray, trials: dict[str, int], heldin: int, bins: int = 35) -> dict:
    """Train and eval tensors of trials with bins behind them, in order."""
    found, first = {}, 0
    for name, number in trials.items():
        part = spikes[first : first + number].astype(np.float32)
        first += number
        for kind, units in (("heldin", slice(0, heldin)), ("heldout", slice(heldin, None))):
            found[f"{name}_spikes_{kind}"] = part[:, :bins, units]
            found[f"{name}_spikes_{kind}_forward"] = part[:, bins:, units]
        velocity = np.random.default_rng(first).normal(size=(number, bins, 2))
        found[f"{name}_behavior"] = velocity + part[:, :bins, :2]
    return found


def config_for(data: DataFolder, out: Path | str, *changes: str) -> PretrainConfig:
    """A training of seconds."""
    out = Path(out)
    corpus = data.corpus
    values = config_of(data.dataset.name, corpus, read_manifest(corpus), out.name, str(out.parent))
    return check(PretrainConfig, base_of(values, [*SHORT, *changes]).values, "test")

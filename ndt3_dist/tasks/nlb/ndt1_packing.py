"""Trials of a corpus as NDT1 takes them, masked: numpy alone, drawn by (seed, epoch, trial).

Held-out units and the bins behind a trial are always hidden and always told. Of the held-in units a
share of the trial's bins is told; of their counts most are hidden, some become random, and some
stay, so that the model has to use the others.

Source: snel-repo/neural-data-transformers (mask.py). There one draw decides the runs of a whole
batch and runs begin late in training; here each trial draws its own, from the first epoch on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.shards.manifest import Session
from ndt3_dist.tasks.nlb.ndt1_config import Ndt1Config

Draw = Callable[[], np.random.Generator]


class TrialPacking:
    """Windows are trials of one length; packed they are stacked."""

    def __init__(self, sessions: Sequence[Session], config: Ndt1Config):
        self.sessions, self.config = sessions, config

    def check(self, sessions: list[int]) -> None:
        c = self.config
        for number in sessions:
            session = self.sessions[number]
            found = {a.name: a.channels for a in session.arrays}
            wanted = {"heldin": c.heldin} | ({"heldout": c.heldout} if c.heldout else {})
            if found != wanted:
                raise BadInput(
                    f"session {session.id} has units {found}; the model has {wanted}: expected a "
                    "corpus of ndt3 nlb data, and its own config"
                )

    def tokens(self, index: np.ndarray) -> np.ndarray:
        return index["bins"].astype(np.int64)

    def counts(self, index: np.ndarray) -> np.ndarray:
        return index["spikes"]["values"].astype(np.int64)[:, None]

    def window(self, sample: dict[str, np.ndarray], session: int, draw: Draw) -> Any:
        if len(sample["spikes"]) != self.config.length:
            raise BadInput(
                f"a window of {len(sample['spikes'])} bins; the model has trials of "
                f"{self.config.bins} bins and {self.config.forward} behind them"
            )
        seen = observed(sample, self.config)
        counts = np.minimum(sample["spikes"], self.config.max_count)
        given, told = masked(counts[: self.config.bins, : self.config.heldin], self.config, draw())
        labels = np.ones(seen.shape, bool)
        labels[: self.config.bins, : self.config.heldin] = told
        whole = hidden(self.config)
        whole[: self.config.bins, : self.config.heldin] = given
        return {"given": whole, "counts": sample["spikes"], "labels": labels & seen}

    def pack(self, windows: list[Any]) -> dict[str, np.ndarray]:
        return {name: np.stack([w[name] for w in windows]) for name in windows[0]}


def observed(sample: dict[str, np.ndarray], config: Ndt1Config) -> np.ndarray:
    """Where counts of a window are known, (bins, units) bool."""
    kinds = np.repeat([0, 1], [config.heldin, config.heldout])
    return (sample["observed"] > 0)[:, kinds]


def hidden(config: Ndt1Config) -> np.ndarray:
    """A window of which nothing is given: zeros, as the original has it, (bins, units) uint8."""
    return np.zeros((config.length, config.units), np.uint8)


def masked(
    counts: np.ndarray, config: Ndt1Config, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What is given of a trial's held-in counts, and which are to be told.

    Args:
        counts: (bins, units) uint8.
    Returns:
        Counts as they are given, (bins, units) uint8; (bins, units) bool.
    """
    width = int(draw.integers(1, config.mask_max_span + 1))
    bins = draw.random(len(counts)) < config.mask_ratio / width
    if width > 1:  # each bin that was drawn becomes the middle of a run
        bins = np.convolve(bins, np.ones(width), "full")[width // 2 :][: len(counts)] > 0
    told = np.repeat(bins[:, None], counts.shape[1], axis=1)
    hide = told & (draw.random(counts.shape) < config.mask_token_ratio)
    change = told & ~hide & (draw.random(counts.shape) < config.mask_random_ratio)
    given = counts.copy()
    given[hide] = 0 if config.zero_mask else config.max_count + 1
    random = draw.integers(0, max(int(given.max(initial=0)), 1), counts.shape, dtype=np.uint8)
    given[change] = random[change]
    return given, told

"""Which neural tokens of a window a masked model has to do without.

In each patch the same number of bins is hidden, so that what the loss is counted by follows from a
window's length and channels alone. Which ones is drawn anew for each patch.
"""

from typing import overload

import numpy as np

from ndt3_dist.model.model_config import ModelConfig


@overload
def hidden_bins(bins: int, config: ModelConfig) -> int: ...
@overload
def hidden_bins(bins: np.ndarray, config: ModelConfig) -> np.ndarray: ...
def hidden_bins(bins, config: ModelConfig):
    """Bins of each patch that are hidden, in windows of so many; 0 in a causal model."""
    if config.objective == "causal":
        return bins * 0
    hidden = np.maximum(np.floor(bins * config.mask_ratio + 0.5).astype(np.int64), 1)
    return hidden if isinstance(bins, np.ndarray) else int(hidden)


def draw_hidden(
    bins: int, patches: int, config: ModelConfig, draw: np.random.Generator
) -> np.ndarray:
    """Which tokens of a window are hidden, (bins, patches) bool.

    Each patch's bins, begun at any of them and taken round, are cut into spans of
    `config.mask_span`; spans in a random order are hidden until the bins are enough.
    """
    start = draw.integers(0, bins, patches)
    turn = draw.random((-(-bins // config.mask_span), patches))[np.arange(bins) // config.mask_span]
    first = turn.argsort(axis=0, kind="stable")[: hidden_bins(bins, config)]
    hidden = np.zeros((bins, patches), bool)
    np.put_along_axis(hidden, (first + start) % bins, True, axis=0)
    return hidden

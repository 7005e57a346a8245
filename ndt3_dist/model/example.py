"""Windows that nobody recorded: to time steps by, and to reckon what steps will take."""

import numpy as np

from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise

CHANNELS, DIMS = 192, 2


def windows(config: ModelConfig, count: int, bins: int = 100) -> dict[str, np.ndarray]:
    """Packed arrays of random windows: 192 channels, two covariates (803 tokens at 100 bins)."""
    draw, lists = np.random.default_rng(0), TokenLists()
    names = tuple(f"{kind}:random" for kind in config.context)
    config = config.model_copy(update={"identities": names})
    layout = Layout.from_counts([CHANNELS], DIMS, config, "random", names)
    for _ in range(count):
        spikes = draw.poisson(0.3, (bins, CHANNELS)).astype(np.uint8)
        covariates = draw.uniform(-1, 1, (bins, DIMS)).astype(np.float32)
        lists.add(*tokenise({"spikes": spikes, "covariates": covariates}, layout, config))
    return lists.pack()

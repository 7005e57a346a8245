"""Learning rate as a function of epochs, samples seen over samples in the corpus."""

import math

from ndt3_dist.engines.engine_config import OptimConfig


def learning_rate(optim: OptimConfig, epochs: float) -> float:
    """Learning rate after `epochs` passes over the corpus.

    Source: joel99/ndt3 at 472466a. Upstream's cosine is not shifted by the warm-up, so
    the rate drops a little where the warm-up ends; `schedule: cosine` shifts it. `wsd` keeps the
    peak up to `stable_epochs` and then falls along a straight line.
    """
    warmup, decay = optim.warmup_epochs, optim.decay_epochs
    if epochs < warmup:
        start = optim.lr * optim.warmup_init_factor
        return start + (optim.lr - start) * epochs / warmup
    if optim.schedule == "wsd":
        left = (decay - epochs) / max(decay - max(optim.stable_epochs, warmup), 1e-9)
        return optim.lr_min + (optim.lr - optim.lr_min) * min(max(left, 0.0), 1.0)
    if optim.schedule == "cosine":
        done = (epochs - warmup) / max(decay - warmup, 1e-9)
    else:
        done = epochs / decay
    wave = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return optim.lr_min + (optim.lr - optim.lr_min) * wave

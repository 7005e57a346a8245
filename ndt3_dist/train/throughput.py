"""How long training takes here: a few steps, timed."""

import time
from dataclasses import dataclass

import torch

from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.stream import Stream
from ndt3_dist.engines.plain import PlainOptimizer
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.train.pretrain_config import PretrainConfig

STEPS = 10
"""Timed steps, after as many that warm up."""
OVERHEAD = 1.15
"""Processes that share caches and memory and wait for each other, against one alone: with this,
155 s asked for came out at 152 on two cores."""


@dataclass(frozen=True)
class Speed:
    """How fast a process of one thread learns here.

    Attributes:
        a_window: Seconds that it takes for a window of the corpus.
        windows: Of a pass over the corpus.
    """

    a_window: float
    windows: int

    def passes(self, seconds: float, ranks: int) -> float:
        """Passes over the corpus that so many processes make in a time."""
        return seconds * ranks / (self.a_window * self.windows)

    def steps(self, seconds: float, batch: int) -> int:
        """Steps of so many windows that one process makes in a time; at least one."""
        return max(1, int(seconds / (self.a_window * batch)))


def measure(config: PretrainConfig, corpus: Corpus) -> Speed:
    """Train for a few steps on this CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = NDT3(config.ndt3)
    optimizer = PlainOptimizer(model, config.optim, config.train.precision)
    packing = model.packing(corpus.manifest.sessions)
    stream = Stream(Feed(corpus, config.data, packing, config.run.seed))
    steps, windows, began = stream.steps(Cursor()), 0, 0.0
    for number, step in zip(range(2 * STEPS), steps, strict=False):
        if number == STEPS:
            windows, began = 0, time.perf_counter()
        ((_, arrays),) = step.batches
        model(PackedTokens.from_numpy(arrays), *step.counts).loss.backward()
        optimizer.step(config.optim.lr_min)
        windows += step.samples
    a_window = OVERHEAD * (time.perf_counter() - began) / windows
    steps.close()  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    return Speed(a_window, stream.plan.sources.num_samples)

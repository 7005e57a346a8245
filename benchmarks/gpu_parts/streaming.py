"""Decoding bin by bin as it arrives: counts on the host to covariates on the host, 96 channels.

*kept* keeps keys and values of earlier bins, *anew* computes the whole window of 100 bins for each
bin, which can be a CUDA graph, for its shapes never change. Those of kept keys do not either, but
the slots that a bin enters do: they are no graph yet.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from gpu_parts.common import DEVICE, Box, Table, config_of, read_box, release

from ndt3_dist import log
from ndt3_dist.evaluate.online import OnlineDecoder
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

CHANNELS, DIMS, CONTEXT = 96, 2, 100
NO_GRAPH = "not captured: each bin enters other slots"
Decode = Callable[[np.ndarray], np.ndarray]


def counts_of(bins: int) -> np.ndarray:
    """(bins, channels) uint8."""
    return np.random.default_rng(0).poisson(0.3, (bins, CHANNELS)).astype(np.uint8)


class Graphed:
    """The window anew, as a CUDA graph: only the spikes of its tokens change."""

    def __init__(self, model: NDT3, layout: Layout):
        self.model, self.layout = model, layout
        self.window = np.zeros((CONTEXT, CHANNELS), np.uint8)
        self.tokens = PackedTokens.from_numpy(self.arrays(), DEVICE)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.predict()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self.predict()

    def arrays(self) -> dict[str, np.ndarray]:
        hidden, lists = np.full((CONTEXT, DIMS), np.nan, np.float32), TokenLists()
        sample = {"spikes": self.window, "covariates": hidden}
        lists.add(*tokenise(sample, self.layout, self.model.config))
        return lists.pack()

    @torch.no_grad()
    def predict(self) -> torch.Tensor:
        states = self.model.features(self.tokens)[self.tokens.covariate_slot[-DIMS:]]
        return self.model.covariate_out(states)[:, 0].float()

    def step(self, counts: np.ndarray) -> np.ndarray:
        self.window = np.concatenate((self.window[1:], counts[None]))
        self.tokens.spikes.copy_(torch.from_numpy(self.arrays()["spikes"]))
        self.graph.replay()
        return self.out.cpu().numpy()


def latency(decode: Decode, box: Box) -> tuple[str, str, int]:
    """Median and 99th percentile in ms, and of how many bins, once the window is full."""
    bins, found = counts_of(CONTEXT + (20 if box.short else 400)), []
    for number, counts in enumerate(bins):
        began = time.perf_counter()
        decode(counts)
        if number >= CONTEXT:
            found.append((time.perf_counter() - began) * 1e3)
        if found and not box.has(2):
            break
    p50, p99 = np.percentile(found, [50, 99])
    return f"{p50:.2f}", f"{p99:.2f}", len(found)


def graphed(model: NDT3, layout: Layout, anew: OnlineDecoder, box: Box) -> tuple:
    """Cells of the window as a graph, which must predict what the model does without."""
    if DEVICE != "cuda":
        return ("not captured: no CUDA device",)
    try:
        graph = Graphed(model, layout)
    except RuntimeError as e:
        return (f"not captured: {str(e).splitlines()[0]}",)
    cells = latency(graph.step, box)
    last = counts_of(1)[0]
    same = np.allclose(graph.step(last), anew.step(last), rtol=0.02, atol=0.02)
    return (*cells, "" if same else "but predicts otherwise than without")


@torch.no_grad()
def main() -> None:
    box = read_box(__doc__)
    log.say(f"{CHANNELS} channels, {DIMS} covariates, {CONTEXT} bins seen, bf16, batch of one")
    table = Table("size   way                     p50 ms   p99 ms   bins")
    for size in box.sizes:
        config = config_of(size, box.short).ndt3
        torch.manual_seed(0)
        with torch.device(DEVICE):
            model = NDT3(config).to(torch.bfloat16).eval()
        layout = Layout.from_counts([CHANNELS], DIMS, config, "stream")
        kept, anew = (
            OnlineDecoder(model, layout, CONTEXT, keep, kind="auto") for keep in (True, False)
        )
        table.add(size, "kept", *latency(kept.step, box))
        table.add(size, "kept, CUDA graph", NO_GRAPH)
        table.add(size, "anew", *latency(anew.step, box))
        table.add(size, "anew, CUDA graph", *graphed(model, layout, anew, box))
        release()


if __name__ == "__main__":
    log.run_program(main)

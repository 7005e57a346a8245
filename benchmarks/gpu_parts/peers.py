"""The same windows three ways: ours, NDT3's own layout, and torch's own encoder.

Ours is packed rows on the kernels. NDT3's layout pads every window to the longest of its batch,
with torch's SDPA under a causal mask and torch's operations between products. The encoder is
torch's, of as many weights, causal, norms first, over the same padded windows, between our
embedding and heads. Rates count real tokens alone.
"""

from unittest import mock

import numpy as np
import torch
from gpu_parts.common import (
    DEVICE,
    Table,
    config_of,
    measure,
    read_box,
    release,
    training_step,
)
from torch import nn

from ndt3_dist import log
from ndt3_dist.model import fused
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

CHANNELS = 64, 96, 128, 192, 256
WINDOWS = {"45M": 120, "350M": 60}
SLOTS = "spike_slot", "covariate_slot", "constraint_slot", "return_slot"


class Encoder(NDT3):
    """torch's encoder between NDT3's embedding and heads; windows are of one length."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.blocks = nn.ModuleList()
        layer = nn.TransformerEncoderLayer(
            config.dim,
            config.heads,
            config.feedforward * 3 // 2,  # two products that weigh as much as SwiGLU's three
            config.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def features(self, tokens: PackedTokens, layers: int | None = None) -> torch.Tensor:
        h = self.embed(tokens).to(self.spike_out.weight.dtype)
        h = h.unflatten(0, (-1, tokens.seqlens[0]))  # (windows, longest, dim)
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1], h.device, h.dtype)
        return self.encoder(h, mask, is_causal=True).flatten(0, 1)


def mixed_windows(config: ModelConfig, count: int) -> dict[str, np.ndarray]:
    """Packed arrays of random windows of 50 to 100 bins, 64 to 256 channels, two covariates."""
    draw, lists = np.random.default_rng(0), TokenLists()
    for _ in range(count):
        channels, bins = int(draw.choice(CHANNELS)), int(draw.integers(50, 101))
        layout = Layout.from_counts([channels], 2, config, "random")
        spikes = draw.poisson(0.3, (bins, channels)).astype(np.uint8)
        covariates = draw.uniform(-1, 1, (bins, 2)).astype(np.float32)
        lists.add(*tokenise({"spikes": spikes, "covariates": covariates}, layout, config))
    return lists.pack()


def rectangle(arrays: dict[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """The same windows, each padded behind its end to the longest."""
    seqlens = np.diff(arrays["cu_seqlens"])
    count, longest = len(seqlens), int(seqlens.max())
    shift = np.arange(count) * longest - arrays["cu_seqlens"][:-1]
    place = np.arange(seqlens.sum()) + np.repeat(shift, seqlens)
    found = {**arrays, **{name: place[arrays[name]] for name in SLOTS}}
    for name, pad in (("time", 0), ("space", config.max_space)):
        found[name] = np.full(count * longest, pad, arrays[name].dtype)
        found[name][place] = arrays[name]
    found["cu_seqlens"] = (np.arange(count + 1) * longest).astype(np.int32)
    return found


def main() -> None:
    box = read_box(__doc__)
    log.say("windows of 50 to 100 bins, 64 to 256 channels; tokens are the real ones")
    table = Table(
        "size   way                            rows  tokens  slots   ms       tokens/s   GiB"
    )
    for size in box.sizes:
        config = config_of(size, box.short)
        packed = mixed_windows(config.ndt3, 2 if box.short else WINDOWS[size])
        padded = rectangle(packed, config.ndt3)
        plain = config.ndt3.model_copy(update={"attention": "sdpa"})
        for way, build, model_config, arrays, kernels in (
            ("ours: packed, kernels", NDT3, config.ndt3, packed, fused.is_used),
            ("NDT3's layout: padded, SDPA", NDT3, plain, padded, lambda weight: False),
            ("nn.TransformerEncoder, padded", Encoder, plain, padded, lambda weight: False),
        ):
            torch.manual_seed(0)
            sizes = len(np.diff(packed["cu_seqlens"])), len(packed["time"]), len(arrays["time"])
            try:
                with mock.patch.object(fused, "is_used", kernels):
                    with torch.device(DEVICE):
                        model = build(model_config)
                    took, memory = measure(training_step(model, config, arrays))
            except torch.OutOfMemoryError:
                table.add(size, way, *sizes, "no memory")
                continue
            finally:
                model = None
                release()
            table.add(size, way, *sizes, f"{took * 1e3:.1f}", f"{sizes[1] / took:,.0f}", memory)


if __name__ == "__main__":
    log.run_program(main)

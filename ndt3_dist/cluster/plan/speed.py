"""How long a GPU computes: a roofline whose shares of the data sheets are those of an H200.

Matrix products, attention and what lies between them take, each, the slower of arithmetic and
memory, and a gap for each kernel; `benchmarks/roofline.py` traces the very operations, and what is
here, a few numbers a token, agrees with it. The sum is stretched by what steps on the H200 took
beyond it. Other cards were measured nowhere.
"""

from dataclasses import dataclass

from ndt3_dist.engines.engine_config import TrainConfig
from ndt3_dist.model.flops import Card, block_flops, head_flops, reach
from ndt3_dist.model.model_config import ModelConfig

PRODUCTS, MEMORY = 0.79, 0.86
"""Shares of the peaks that the H200 reached (benchmarks/roofline.py)."""
ATTENTION, ATTENTION_MOST = 0.35, 131e12
"""Needed FLOP/s of flash attention: a share of the peak, up to what the H200 did with kernels of
Ampere."""
OF_BLOCK, OF_ENDS = 117, 135
"""Bytes moved a token and feature: in each block, in embedding, heads and losses together, by our
fused kernels (benchmarks/results/roofline_*)."""
KERNELS_BLOCK, KERNELS_ENDS, GAP_S = 42, 105, 2e-6
OF_ADAMW, OF_ADDING = 52, 10
"""Bytes moved a parameter: in an optimiser step; to add a micro-batch's gradients in fp32."""
SLOWER = 1.12
"""Measured over reckoned: 158.2 to 147.6 ms, 244.3 to 217.7, 31.7 to 27.2, 115.0 to 102.4, and the
shipped path at 44.0 % instead of 49.3 (benchmarks/results/gpu_*, roofline_*)."""
RECOMPUTE = 1.27
"""A step with `train.recompute` over one without, on the H200 (gpu_2026-11-28.txt)."""
OFFLOAD_BYTES = 28
"""A parameter: what AdamW moves in the host's memory."""
HOST_RATE, TO_HOST = 100e9, 20e9
"""Bytes a second of a host's memory, all its ranks together, and of a GPU's way to it (assumed)."""


@dataclass(frozen=True)
class Window:
    """Tokens of a window, the mean of a corpus.

    Attributes:
        tokens: All.
        spikes, covariates: Those that are predicted.
    """

    tokens: float
    spikes: float
    covariates: float


@dataclass(frozen=True)
class Work:
    """What a GPU does for a token.

    Attributes:
        products, attention: Operations that the model needs, forward and backward.
        bytes: Moved besides products and attention.
        kernels: Of a micro-batch.
    """

    products: float
    attention: float
    bytes: float
    kernels: int

    @property
    def needed(self) -> float:
        return self.products + self.attention

    def seconds(self, card: Card, tokens: float) -> float:
        """Of a micro-batch of so many tokens."""
        reached = min(ATTENTION * card.flops, ATTENTION_MOST)
        a_token = self.products / (PRODUCTS * card.flops) + self.attention / reached
        a_token += self.bytes / (MEMORY * card.bandwidth)
        return SLOWER * (tokens * a_token + self.kernels * GAP_S)


def work_of(model: ModelConfig, window: Window) -> Work:
    """Of NDT3 on windows of a mean length."""
    length = window.tokens
    whole = 3 * block_flops(model, [1]) - 12 * model.layers * model.dim
    attention = 6 * model.layers * reach(model, length) * model.dim
    heads = 3 * head_flops(model, 1, 0) * window.spikes + 3 * head_flops(model, 0, 1) * (
        window.covariates
    )
    return Work(
        whole + heads / length,
        attention,
        (OF_BLOCK * model.layers + OF_ENDS) * model.dim,
        KERNELS_BLOCK * model.layers + KERNELS_ENDS,
    )


@dataclass(frozen=True)
class Computing:
    """Seconds of a rank in a step, without what it waits for.

    Attributes:
        micro_batches: Forward and backward passes.
        optimiser: What follows them.
    """

    micro_batches: float
    optimiser: float


def computing(
    work: Work,
    card: Card,
    train: TrainConfig,
    parameters: int,
    tokens: float,
    accumulation: int,
    ranks: int,
    per_node: int,
    mfu: float | None,
) -> Computing:
    """What a step computes for.

    Args:
        tokens: Of a micro-batch.
        mfu: To be taken, instead of a roofline's.
    """
    if mfu:
        return Computing(accumulation * tokens * work.needed / (mfu * card.flops), 0.0)
    memory = MEMORY * card.bandwidth / SLOWER
    adding = OF_ADDING * parameters / memory
    one = work.seconds(card, tokens) * (RECOMPUTE if train.recompute else 1) + adding
    own = parameters / ranks if train.zero_stage else parameters
    optimiser = OF_ADAMW * own / memory
    if train.offload:
        here = min(ranks, per_node)
        optimiser = 6 * own / TO_HOST + OFFLOAD_BYTES * own * here / HOST_RATE
    return Computing(accumulation * one, optimiser)

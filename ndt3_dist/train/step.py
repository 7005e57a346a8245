"""Forward and backward of one global step: this rank's micro-batches, losses of all of them."""

import torch
import torch.distributed as dist

from ndt3_dist.config import PretrainConfig
from ndt3_dist.data.stream import Step
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train.engine import Engine


def loss_divisors(config: PretrainConfig, work: Step) -> list[tuple[int, int]]:
    """What each of this rank's micro-batches divides its sums of spike and covariate loss by.

    The counts of the whole step; or, with `train.upstream_means`, those of the micro-batch itself
    times the number of micro-batches, which makes the step's loss a mean of means.
    """
    if not config.train.upstream_means:
        return [(work.num_spikes, work.num_covariates)] * len(work.batches)
    number = config.train.global_batch // config.train.micro_batch
    return [
        (
            number * int(arrays["spike_channels"].sum()),
            number * int(arrays["covariate_valid"].sum()),
        )
        for _, arrays in work.batches
    ]


def run_micro_batches(
    engine: Engine, work: Step, divisors: list[tuple[int, int]], step: int, device
) -> list[list[float]]:
    """Forward and backward of this rank's micro-batches, losses of the whole step.

    Args:
        engine: The engine.
        work: This rank's part of the step.
        divisors: Of each micro-batch, from `loss_divisors`.
        step: Number of the step.
        device: Of the model.
    Returns:
        Spike and covariate loss of every micro-batch of the global step, in their order, float64;
        their sums are the step's means.
    """
    sums = []
    for done, ((number, arrays), counts) in enumerate(zip(work.batches, divisors, strict=True), 1):
        tokens = PackedTokens.from_numpy(arrays, device)
        out = engine.micro_step(tokens, *counts, (step, number))
        scale = torch.tensor(counts, dtype=torch.float64, device=device).clamp(min=1)
        sums.append(torch.stack((out.spike_sum, out.covariate_sum)).double() / scale)
        if done < len(work.batches):
            engine.accumulated()
    ours = torch.stack(sums)  # (accumulation, 2)
    every = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(every, ours)
    in_order = torch.stack(every, dim=1).flatten(0, 1).cpu()  # micro-batch a * world + rank
    return in_order.tolist()

"""Forward and backward of one global step: this rank's micro-batches, losses of all of them."""

import torch
import torch.distributed as dist

from ndt3_dist.config import PretrainConfig
from ndt3_dist.data.stream import Step
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.train.engine import Engine
from ndt3_dist.train.flops import step_flops


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
    config: PretrainConfig,
    engine: Engine,
    work: Step,
    divisors: list[tuple[int, int]],
    step: int,
    device: torch.device,
) -> tuple[list[list[float]], tuple[float, float]]:
    """Forward and backward of this rank's micro-batches, losses of the whole step.

    Args:
        config, engine: Of the run.
        work: This rank's part of the step.
        divisors: Of each micro-batch, from `loss_divisors`.
        step: Number of the step.
        device: Of the model.
    Returns:
        Spike and covariate loss of every micro-batch of the global step, in their order, float64,
        whose sums are the step's means; and the operations of all ranks, those that the model needs
        and those that run (`train.flops`).
    """
    rows = []
    for done, ((number, arrays), counts) in enumerate(zip(work.batches, divisors, strict=True), 1):
        tokens = PackedTokens.from_numpy(arrays, device)
        out = engine.micro_step(tokens, *counts, (step, number))
        scale = torch.tensor(counts, dtype=torch.float64, device=device).clamp(min=1)
        loss = torch.stack((out.spike_sum, out.covariate_sum)).double() / scale
        slots = len(arrays["spike_slot"]), len(arrays["covariate_slot"])
        flops = step_flops(config.model, tokens.seqlens, *slots, config.train.recompute)
        rows.append(torch.cat((loss, torch.tensor(flops, dtype=torch.float64, device=device))))
        if done < len(work.batches):
            engine.accumulated()
    ours = torch.stack(rows)  # (accumulation, 4)
    every = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(every, ours)
    in_order = torch.stack(every, dim=1).flatten(0, 1).cpu()  # micro-batch a * world + rank
    needed, ran = in_order[:, 2:].sum(0).tolist()
    return in_order[:, :2].tolist(), (needed, ran)

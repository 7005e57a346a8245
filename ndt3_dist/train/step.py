"""Forward and backward of one global step: this rank's micro-batches, losses of all of them."""

import numpy as np
import torch
import torch.distributed as dist

from ndt3_dist.data.stream import Step, Stream
from ndt3_dist.model.ndt3 import Output
from ndt3_dist.model.tokens import PackedTokens, together
from ndt3_dist.train.engine import Engine
from ndt3_dist.train.flops import step_flops
from ndt3_dist.train.pretrain_config import PretrainConfig


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
    stream: Stream,
    work: Step,
    divisors: list[tuple[int, int]],
    step: int,
    device: torch.device,
) -> tuple[list[list[float]], tuple[float, float], dict[str, float]]:
    """Forward and backward of this rank's micro-batches, losses of the whole step.

    Args:
        config, engine, stream: Of the run.
        work: This rank's part of the step.
        divisors: Of each micro-batch, from `loss_divisors`.
        step: Number of the step.
        device: Of the model.
    Returns:
        Spike and covariate loss of every micro-batch of the global step, in their order, float64,
        whose sums are the step's means; the operations of all ranks, those that the model needs
        and those that run (`train.flops`); and where there are several datasets, `LOSS/DATASET` ->
        mean over the dataset's own targets.
    """
    rows, flops, several, first = [], np.zeros(2), len(stream.datasets) > 1, 0
    for done, ((number, arrays), counts) in enumerate(zip(work.batches, divisors, strict=True), 1):
        tokens = PackedTokens.from_numpy(arrays, device)
        out = engine.micro_step(tokens, *counts, (step, number))
        # Nothing here waits for a GPU: sums stay there, counts on the host, until the step ends.
        sums = zip((out.spike_sum, out.covariate_sum), counts, strict=True)
        found = [torch.stack([total.double() / max(count, 1) for total, count in sums])]
        slots = len(arrays["spike_slot"]), len(arrays["covariate_slot"])
        flops += step_flops(config.model, tokens.seqlens, *slots, config.train.recompute)
        if several:
            of_batch = work.rows[first : first + config.train.micro_batch]
            first += config.train.micro_batch
            groups = stream.dataset_of(np.concatenate([samples for *_, samples in of_batch]))
            found.append(by_group(out, tokens, groups, len(stream.datasets)).flatten())
        rows.append(torch.cat(found))
        if done < len(work.batches):
            engine.accumulated()
    own = torch.from_numpy(flops / len(rows)).expand(len(rows), 2).to(device)
    ours = torch.cat((own, torch.stack(rows)), 1)  # (accumulation, 4 or 4 + 4 * datasets)
    every = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(every, ours)
    in_order = torch.stack(every, dim=1).flatten(0, 1).cpu()  # micro-batch a * world + rank
    needed, ran = in_order[:, :2].sum(0).tolist()
    sums = in_order[:, 4:].sum(0).view(-1, 4).tolist()
    return in_order[:, 2:4].tolist(), (needed, ran), dict(means(stream.datasets, sums))


def by_group(out: Output, tokens: PackedTokens, groups: np.ndarray, count: int) -> torch.Tensor:
    """Spike loss, spike targets, covariate loss, covariate targets of each group of segments.

    Args:
        out, tokens: Of a micro-batch.
        groups: Of each segment, (segments,).
        count: Of groups.
    Returns:
        Sums, (count, 4) float64.
    """
    device = tokens.time.device
    (of_segment,) = together([torch.from_numpy(groups)], device)
    sums = torch.zeros(count, 4, dtype=torch.float64, device=device)
    for column, slots, values in (
        (0, tokens.spike_slot, out.spike_losses),
        (1, tokens.spike_slot, tokens.spike_channels),
        (2, tokens.covariate_slot, out.covariate_losses),
        (3, tokens.covariate_slot, tokens.covariate_valid),
    ):
        segments = torch.searchsorted(tokens.cu_seqlens, slots.to(torch.int32), right=True) - 1
        sums[:, column].index_add_(0, of_segment[segments], values.double())
    return sums


def means(datasets: list[str], sums: list[list[float]]):
    """`LOSS/DATASET` and its mean, of each dataset that has targets in the step."""
    for name, (spikes, channels, squares, values) in zip(datasets, sums, strict=bool(sums)):
        if channels:
            yield f"loss_spikes/{name}", spikes / channels
        if values:
            yield f"loss_covariates/{name}", squares / values

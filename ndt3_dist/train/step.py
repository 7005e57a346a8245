"""Forward and backward of one global step: this rank's micro-batches, losses of all of them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from ndt3_dist.data.stream import Step
from ndt3_dist.engines.phases import COMMUNICATION, FORWARD
from ndt3_dist.model.tokens import together
from ndt3_dist.train.run import Run


@dataclass
class Losses:
    """What a step came to.

    Attributes:
        of_batches: Loss of each target in every micro-batch of the global step, in their order,
            (micro-batches, targets) float64; their sums are the step's means.
        operations: Of all ranks: those that the model needs, and those that ran.
        of_datasets: `loss_TARGET/DATASET` -> mean over the dataset's own counts; empty where there
            is one dataset.
    """

    of_batches: list[list[float]]
    operations: tuple[float, float]
    of_datasets: dict[str, float]


def loss_divisors(run: Run, work: Step) -> list[list[int]]:
    """What each of this rank's micro-batches divides its sums by, of each target.

    The counts of the whole step; or, with `train.upstream_means`, those of the micro-batch itself
    times the number of micro-batches, which makes the step's loss a mean of means.
    """
    train = run.config.train
    if not train.upstream_means:
        return [work.counts] * len(work.batches)
    number, size = train.global_batch // train.micro_batch, train.micro_batch
    starts = range(0, len(work.rows), size)
    of_batches = [np.concatenate([s for *_, s in work.rows[i : i + size]]) for i in starts]
    return [(number * run.stream.counts_of(s).sum(axis=0)).tolist() for s in of_batches]


def run_micro_batches(run: Run, work: Step, step: int) -> Losses:
    """Forward and backward of this rank's micro-batches, losses of the whole step.

    Args:
        work: This rank's part of the step.
    """
    stream, model, size = run.stream, run.engine.model, run.config.train.micro_batch
    several, recompute = len(stream.datasets) > 1, run.config.train.recompute
    sums, of_datasets, operations = [], [], np.zeros(2)
    divisors = loss_divisors(run, work)
    phases = run.engine.phases
    for done, ((number, arrays), counts) in enumerate(zip(work.batches, divisors, strict=True), 1):
        with phases.at(FORWARD):
            batch = model.batch(arrays, run.device)
        out = run.engine.micro_step(batch, counts, (step, number))
        # Nothing here waits for a GPU: sums stay there, counts on the host, until the step ends.
        parts = [s / max(count, 1) for s, count in zip(out.sums.double(), counts, strict=True)]
        sums.append(torch.stack(parts))
        forward, blocks = model.operations(arrays)
        operations += 3 * forward, 3 * forward + blocks * recompute
        if several:
            rows = work.rows[(done - 1) * size : done * size]
            of_segment = stream.datasets_of(np.concatenate([samples for *_, samples in rows]))
            of_datasets.append(by_group(model.by_segment(out, batch), of_segment, stream.datasets))
        if done < len(work.batches):
            run.engine.accumulated()
    ours = torch.stack(sums)  # (accumulation, targets)
    every = [torch.empty_like(ours) for _ in range(stream.world_size)]
    counted = torch.from_numpy(operations).to(run.device)
    found = {}
    with phases.at(COMMUNICATION):
        dist.all_gather(every, ours)
        # Micro-batch a * world + rank.
        of_batches = torch.stack(every, dim=1).flatten(0, 1).cpu().tolist()
        dist.all_reduce(counted)
        needed, ran = counted.tolist()
        if several:
            found = dict(dataset_means(run, work, torch.stack(of_datasets).sum(0)))
    return Losses(of_batches, (needed, ran), found)


def by_group(of_segment: torch.Tensor, groups: np.ndarray, names: list[str]) -> torch.Tensor:
    """Sums over the segments of each group, (groups, targets) float64."""
    (where,) = together([torch.from_numpy(groups)], of_segment.device)
    sums = of_segment.new_zeros(len(names), of_segment.shape[1])
    return sums.index_add_(0, where, of_segment)


def dataset_means(run: Run, work: Step, sums: torch.Tensor):
    """`loss_TARGET/DATASET` and its mean, of each dataset that has such targets in the step."""
    datasets = run.stream.datasets
    samples = np.concatenate([s for *_, s in work.rows])
    counts, where = run.stream.counts_of(samples), run.stream.datasets_of(samples)
    own = [counts[where == d].sum(axis=0) for d in range(len(datasets))]
    both = torch.stack((sums, torch.from_numpy(np.array(own, np.float64)).to(sums.device)))
    dist.all_reduce(both)
    for name, of_sums, of_counts in zip(datasets, *both.tolist(), strict=True):
        for target, total, count in zip(run.targets, of_sums, of_counts, strict=True):
            if count:
                yield f"loss_{target.name}/{name}", total / count

"""Checkpoints of a small made-up model, saved by several ranks in the threads of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from ndt3_dist.checkpoint.steps import KINDS
from ndt3_dist.checkpoint.writer import Writer

SHAPES = {"a.weight": [7, 5], "b": [1], "c": [64]}


def full_state(step):
    torch.manual_seed(step)
    return {
        name: {kind: torch.randn(torch.Size(shape).numel()) for kind in KINDS}
        for name, shape in SHAPES.items()
    }


def slices_of(state, rank, world_size):
    """What a rank owns: a run of every parameter."""
    for name, kinds in state.items():
        size = len(kinds["master"])
        low, high = size * rank // world_size, size * (rank + 1) // world_size
        if high > low:
            yield name, low, {k: t[low:high] for k, t in kinds.items()}


def writers(run, world_size=1, background=True):
    """A writer of each rank; each in a thread of its own, they gather what the others have."""
    barrier, box = threading.Barrier(world_size, timeout=20), [None] * world_size

    def gather_of(rank):
        def gather(value):
            box[rank] = value
            barrier.wait()
            found = list(box)
            barrier.wait()
            return found

        return gather

    return [Writer(run, r, world_size, gather_of(r), background) for r in range(world_size)]


def on_all(ranks, call):
    """A call on every rank, in threads; its results."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [f.result() for f in [pool.submit(call, writer) for writer in ranks]]


def save(run, step, world_size=1, ranks=None):
    """Save a step as so many ranks do; its state."""
    state = full_state(step)
    describe = {"parameters": SHAPES, "config": {}, "adam_step": step}

    def call(writer):
        own = slices_of(state, writer.rank, writer.world_size)
        writer.begin(step, own, describe, {"place": {}})
        writer.finish()

    on_all(ranks or writers(run, world_size), call)
    return state

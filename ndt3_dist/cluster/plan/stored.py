"""What a run fetches from a store and writes: bytes, requests, checkpoints."""

from dataclasses import dataclass

from ndt3_dist.cluster.plan.corpus_size import CorpusSize
from ndt3_dist.cluster.plan.run_length import Cluster, Course
from ndt3_dist.shards.cache import PIECE
from ndt3_dist.train.pretrain_config import PretrainConfig

MASTERS_AND_MOMENTS = 12
"""Bytes of a parameter in a checkpoint."""


@dataclass(frozen=True)
class Fetched:
    """Of one host, from an s3:// corpus.

    Attributes:
        own_shards: Whether its ranks read shards of their own (lanes).
        bytes, requests: Of an epoch.
        all_bytes, all_requests: Of the run.
        at_once: Bytes that the cache needs for what is being read.
        for_all: Bytes with which nothing is fetched twice.
    """

    own_shards: bool
    bytes: int
    requests: int
    all_bytes: int
    all_requests: int
    at_once: int
    for_all: int


def fetched(config: PretrainConfig, size: CorpusSize, course: Course) -> Fetched:
    """What lanes, ranks and cache make of it."""
    data, hosts = config.data, course.nodes
    own = data.lanes % (course.gpus * course.micro_batch) == 0 and not data.mixture
    share = 1 / hosts if own else 1.0
    requests = size.shards * (-(-size.bytes // max(size.shards, 1) // PIECE) + 1)  # its index too
    per_shard = max(1, size.windows // max(size.shards, 1))
    block = -(-data.block_samples // per_shard) * size.bytes / max(size.shards, 1)
    at_once = min(size.bytes, round(data.lanes * share * block))
    epochs = course.steps * config.train.global_batch / size.rows
    # Other blocks come to a host in each epoch: only a cache of all of them fetches none again.
    times = 1 if size.bytes <= data.cache_gb * 1e9 else epochs * share
    of_epoch = round(size.bytes * share), round(requests * share)
    all_of_it = round(size.bytes * times), round(requests * times)
    return Fetched(own, *of_epoch, *all_of_it, at_once, size.bytes)


@dataclass(frozen=True)
class Kept:
    """Checkpoints of a run.

    Attributes:
        bytes: Of each.
        number: That are there in the end.
        saves: Of the run.
        seconds: Of a save, all hosts writing.
        host_copy: Bytes of a host's memory that a save in the background takes.
    """

    bytes: int
    number: int
    saves: int
    seconds: float
    host_copy: int

    @property
    def all_bytes(self) -> int:
        return self.bytes * self.number


def kept(
    config: PretrainConfig, parameters: int, course: Course, cluster: Cluster, rate: float
) -> Kept:
    """
    Args:
        rate: Bytes a second that a host writes.
    """
    checkpoint, size = config.checkpoint, MASTERS_AND_MOMENTS * parameters
    saves = -(-course.steps // checkpoint.every_steps)
    every = checkpoint.keep_every
    multiples = course.steps // every if every else 0
    best = 1 if config.validation.every_steps else 0
    number = min(saves + best, checkpoint.keep_last + best + multiples)
    writers = course.nodes if config.train.zero_stage else 1
    here = min(cluster.per_node, course.gpus) / course.gpus if config.train.zero_stage else 1
    copy = round(size * here) if checkpoint.background else 0
    return Kept(size, number, saves, size / (rate * writers), copy)

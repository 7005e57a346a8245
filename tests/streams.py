"""Streams of several ranks in one process, and what they yield as hashes."""

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

import numpy as np

from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.stream import Stream
from ndt3_dist.model.tokenise import NDT3Packing
from ndt3_dist.shards.corpus import Corpus

STEPS = 12


def make_streams(
    corpus, model, world_size=1, state=None, covariate_mask_rate=1.0, batch=(8, 1), **data
):
    """A stream of each rank; `batch` is rows of a step and of a micro-batch."""
    model = model.model_copy(update={"covariate_mask_rate": covariate_mask_rate})
    options = {"row_tokens": 1024, "block_samples": 16, "on_corrupt": "quarantine"}
    options |= {"max_quarantined": 1.0, **data}
    found = []
    for rank in range(world_size):
        opened = Corpus(corpus)
        packing = NDT3Packing(opened.manifest.sessions, model)
        feed = Feed(opened, DataConfig(**options), packing, 0, *batch, rank, world_size)
        found.append(Stream(feed, state))
    return found


def one_stream(corpus, model, state=None, batch=(4, 1), **data) -> Stream:
    """A stream of one rank, with the config's own defaults; `corpus` is a path or an open one."""
    opened = corpus if isinstance(corpus, Corpus) else Corpus(str(corpus))
    packing = NDT3Packing(opened.manifest.sessions, model)
    return Stream(Feed(opened, DataConfig(**data), packing, 0, *batch), state)


def run_ranks(streams, steps=STEPS, place=None) -> list[Future]:
    """Each rank's steps, made by a thread. Ranks tell each other what they found."""
    barrier, box = threading.Barrier(len(streams), timeout=60), [(np.zeros(4), [])] * len(streams)

    def run(rank):
        asked = count()

        def share(totals, damage):
            if next(asked) > 10 * steps:  # damage that nothing replaces is met for ever
                barrier.abort()
            box[rank] = (totals, damage)
            barrier.wait()
            whole = sorted({d for _, part in box for d in part})
            total = np.sum([c for c, _ in box], axis=0)
            barrier.wait()
            return total, whole

        return list(islice(streams[rank].steps(place or Cursor(), share), steps))

    with ThreadPoolExecutor(len(streams)) as pool:
        return [pool.submit(run, rank) for rank in range(len(streams))]


def walk(streams, steps=STEPS, place=None):
    """Steps of all ranks: [step][rank]."""
    return list(zip(*(r.result() for r in run_ranks(streams, steps, place)), strict=True))


def rows_of(ranks) -> list[tuple[int, int, np.ndarray]]:
    """All rows of a step in order, from all ranks' parts of it."""
    return sorted((row for step in ranks for row in step.rows), key=lambda row: row[0])


def digest(steps) -> list[str]:
    """Hash of every later step's samples and bytes, over all its ranks."""
    found = []
    for ranks in steps:
        parts = {m: a for step in ranks for m, a in step.batches}
        hashed = hashlib.sha256()
        for m in sorted(parts):
            for name in sorted(parts[m]):
                hashed.update(parts[m][name].tobytes())
        hashed.update(repr([(n, e, s.tolist()) for n, e, s in rows_of(ranks)]).encode())
        assert all((step.totals == ranks[0].totals).all() for step in ranks)
        hashed.update(repr((ranks[0].totals.tolist(), ranks[0].after)).encode())
        found.append(hashed.hexdigest())
    return found

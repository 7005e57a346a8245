"""What the stream would do on 512 GPUs with a million hours: bytes, requests, memory, time to plan.

Nothing is read: the corpus is a number of shards and a rule that says how long each window is. The
order, the lanes and the cache's rule (least recently used, whole shards) are the real ones.

Example:
    python benchmarks/scale.py
    python benchmarks/scale.py --hours 2000 --hosts 4 --lanes 64
"""

import argparse
import sys
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np

from ndt3_dist import log
from ndt3_dist.data.order import Order, count_rows, generator
from ndt3_dist.shards.cache import PIECE
from ndt3_dist.shards.index import index_type
from ndt3_dist.shards.summary import text_table

sys.path.insert(0, str(Path(__file__).parent))
from hardware import header, save

WINDOWS_PER_HOUR = 1800
WINDOW_BYTES = 12_300
"""96 channels and 2 covariates in 2 s, with tar headers."""
SHARD_WINDOWS = 32_000_000 // WINDOW_BYTES
RECORD = index_type(("spikes", "covariates")).itemsize
BLOCK_SHARDS = -(-8192 // SHARD_WINDOWS)
LENGTHS = np.array([400, 500, 600, 700, 800, 900, 1000, 1200])
"""Tokens of a window: two to ten patches and covariates in each of 100 bins."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1e6, help="of recordings")
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=8, help="of each host")
    parser.add_argument("--lanes", type=int, default=512)
    parser.add_argument("--batch", type=int, default=3072, help="rows of a step")
    parser.add_argument("--cache-gb", type=float, default=50, help="of each host")
    parser.add_argument("--steps", type=int, default=400, help="from one million rows on")
    args = parser.parse_args()
    world, shards = args.hosts * args.ranks, round(args.hours * WINDOWS_PER_HOUR / SHARD_WINDOWS)
    blocks = -(-shards // BLOCK_SHARDS)
    per_block = BLOCK_SHARDS * SHARD_WINDOWS
    share = np.arange(1, len(LENGTHS) + 1)
    counts = np.bincount(np.repeat(np.arange(len(LENGTHS)), share), minlength=len(LENGTHS))
    counts = np.floor(per_block * counts / counts.sum()).astype(np.int64)
    counts[-1] += per_block - counts.sum()
    lengths = generator("scale").permutation(np.repeat(LENGTHS, counts))
    tracemalloc.start()
    began = time.perf_counter()
    rows = np.full(blocks, count_rows(LENGTHS[::-1], counts[::-1], 4096))

    def samples_of(block: int) -> tuple[np.ndarray, np.ndarray]:
        return block * per_block + np.arange(per_block), lengths

    order = Order("scale", 0, rows, samples_of, 4096, args.lanes)
    order.row(10**6)
    first = time.perf_counter() - began
    host = Host(round(args.cache_gb * 1e9))
    planning, start = 0.0, 10**6 // args.batch * args.batch
    tokens = fetched = gets = hits = needed = 0
    for step in range(args.steps):
        position = start + step * args.batch
        began = time.perf_counter()
        # The rows of all ranks of the first host.
        mine = [p for p in range(position, position + args.batch) if p % world < args.ranks]
        taken = [order.row(p)[1] for p in mine]
        planning += time.perf_counter() - began
        for samples in taken:
            tokens += int(lengths[samples % per_block].sum())
            for shard in np.unique(samples // SHARD_WINDOWS).tolist():
                host.need(shard)
        if step == args.steps // 4:  # the first blocks of all lanes come at once
            fetched, gets, hits, needed = host.bytes, host.gets, host.hits, host.needed
            tokens = 0
    _, peak = tracemalloc.get_traced_memory()
    steps = args.steps - args.steps // 4 - 1
    used = tokens / lengths.mean() * WINDOW_BYTES
    table = [
        ("windows, shards, blocks", f"{shards * SHARD_WINDOWS:,}, {shards:,}, {blocks:,}"),
        ("index of all shards", f"{shards * SHARD_WINDOWS * RECORD / 1e9:,.1f} GB"),
        ("rows filled", f"{lengths.sum() / (rows[0] * 4096):.1%}"),
        ("first row after a resume at 1,000,000", f"{first * 1e3:.0f} ms"),
        ("time to plan a step, a rank", f"{planning / args.steps / args.ranks * 1e3:.2f} ms"),
        ("memory of the order, a host's ranks together", f"{peak / 1e6:.0f} MB"),
        ("bytes a host fetches in a step", f"{(host.bytes - fetched) / steps / 1e6:.1f} MB"),
        ("of those that its windows have", f"{(host.bytes - fetched) / used:.2f}"),
        ("GETs of a host in a step", f"{(host.gets - gets) / steps:.1f}"),
        ("cache hits", f"{(host.hits - hits) / (host.needed - needed):.1%}"),
        ("shards in the cache", f"{len(host.held):,} ({len(host.held) * host.size / 1e9:.1f} GB)"),
    ]
    rows_of_table = [{"what": what, "value": value} for what, value in table]
    how = f"{args.hours:,.0f} hours, {args.hosts} hosts of {args.ranks} ranks, {args.lanes} lanes, "
    how += f"{args.batch} rows a step, cache of {args.cache_gb:g} GB, "
    how += f"{args.steps} steps, of which the last {steps} are counted"
    text = f"{header('scale.py')}\n{how}\n{text_table(rows_of_table)}\n"
    log.say(f"{text}{save('scale', text)}")


class Host:
    """A host's cache of whole shards."""

    size = SHARD_WINDOWS * WINDOW_BYTES

    def __init__(self, limit: int):
        self.limit, self.held = limit, OrderedDict()
        self.bytes = self.gets = self.hits = self.needed = 0

    def need(self, shard: int) -> None:
        self.needed += 1
        if shard in self.held:
            self.hits += 1
        else:
            self.bytes += self.size + SHARD_WINDOWS * RECORD
            self.gets += -(-self.size // PIECE) + 1
            if (len(self.held) + 1) * self.size > self.limit:
                self.held.popitem(last=False)
        self.held[shard] = True
        self.held.move_to_end(shard)


if __name__ == "__main__":
    log.run_program(main)

"""Shards of a remote corpus, fetched before their windows are needed."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndt3_dist.data.stream import Stream

FETCH_STEPS = 4
"""Steps whose shards a remote corpus is asked for ahead of those that are built."""
FETCHES = 8
"""Shards that a rank fetches at once."""


class Fetcher:
    """Fetches the shards of the next steps before they are built."""

    def __init__(self, stream: "Stream", position: int):
        self.stream, self.position = stream, position
        self.asked: set[int] = set()
        self.failed: set[int] = set()
        self.pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        weakref.finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)
        for _ in range(FETCH_STEPS):
            self.go_on()

    def go_on(self) -> None:
        """Ask for the shards of this rank's rows of one more step."""
        s, needed = self.stream, set()
        for _, positions in s.rows_of_step(self.position):
            for position in positions:
                needed |= set(s.corpus.shard_of(s.order.row(position)[1]).tolist())
        for shard in needed - self.asked - self.failed:
            self.pool.submit(self._fetch, shard)
        self.asked = needed  # what comes again later is asked for again: it may be gone
        self.position += s.global_batch

    def _fetch(self, shard: int) -> None:
        try:
            self.stream.corpus.fetch(shard)
        except Exception:
            # It fails again where it is needed, and is answered there.
            self.failed.add(shard)

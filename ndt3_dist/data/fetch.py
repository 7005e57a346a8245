"""Shards of a remote corpus, fetched before their windows are needed."""

from contextlib import suppress
from typing import TYPE_CHECKING

from ndt3_dist.data.threads import Threads

if TYPE_CHECKING:
    from ndt3_dist.data.stream import Stream

STEPS = 4
"""Steps whose shards a remote corpus is asked for ahead of those that are built."""
FETCHES = 4
"""Shards that a rank fetches at once."""


class Fetcher:
    """Fetches the shards of the next steps before they are built."""

    def __init__(self, stream: "Stream", position: int):
        self.stream, self.position = stream, position
        self.under_way: set[int] = set()
        self.threads = Threads(FETCHES, "fetch")
        for _ in range(STEPS):
            self.go_on()

    def go_on(self) -> None:
        """Ask for the shards of this rank's rows of one more step; those at hand stay at hand."""
        s, needed = self.stream, set()
        with suppress(Exception):  # it fails again where it is needed, and is answered there
            for _, positions in s.rows_of_step(self.position):
                for position in positions:
                    needed |= set(s.corpus.shard_of(s.plan.row(position)[2]).tolist())
        for shard in needed - self.under_way:
            self.under_way.add(shard)
            self.threads.submit(self._fetch, shard)
        self.position += s.global_batch

    def close(self) -> None:
        """Fetch no more."""
        self.threads.close()

    def _fetch(self, shard: int) -> None:
        try:
            self.stream.corpus.fetch(shard)
        finally:
            self.under_way.discard(shard)

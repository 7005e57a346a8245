"""Shards of a remote corpus, fetched before their windows are needed."""

from collections.abc import Callable
from contextlib import suppress

from ndt3_dist.data.threads import Threads

STEPS = 4
"""Steps whose shards a remote corpus is asked for ahead of those that are built."""
FETCHES = 4
"""Shards that a rank fetches at once."""


class Fetcher:
    """Fetches the shards of the next steps before they are built."""

    def __init__(
        self,
        fetch: Callable[[int], object],
        shards_of: Callable[[int], set[int]],
        batch: int,
        at: int,
    ):
        """
        Args:
            fetch: Brings a shard.
            shards_of: Shards of this rank's rows of the step that begins at a position.
            batch: Rows of a step.
            at: Position of the first step.
        """
        self.fetch, self.shards_of, self.batch, self.position = fetch, shards_of, batch, at
        self.under_way: set[int] = set()
        self.threads = Threads(FETCHES, "fetch")
        for _ in range(STEPS):
            self.go_on()

    def go_on(self) -> None:
        """Ask for the shards of this rank's rows of one more step; those at hand stay at hand."""
        needed: set[int] = set()
        with suppress(Exception):  # it fails again where it is needed, and is answered there
            needed = self.shards_of(self.position)
        for shard in needed - self.under_way:
            self.under_way.add(shard)
            self.threads.submit(self._fetch, shard)
        self.position += self.batch

    def close(self) -> None:
        """Fetch no more."""
        self.threads.close()

    def _fetch(self, shard: int) -> None:
        try:
            self.fetch(shard)
        finally:
            self.under_way.discard(shard)

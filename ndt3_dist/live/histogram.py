"""How long something took, kept in a table that does not grow."""

import math

LEAST_MS, RATIO, ENTRIES = 1e-3, 1.05, 400
"""Edges of the table: from a microsecond in steps of 5 % to five minutes."""
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Histogram:
    """Counts of durations by their logarithm.

    Attributes:
        counts: Of each entry, the first and the last with all that is beyond.
        total: Their sum.
        most_ms: The longest.
    """

    def __init__(self):
        self.counts, self.total, self.most_ms = [0] * ENTRIES, 0, 0.0

    def add(self, ms: float) -> None:
        place = int(math.log(max(ms, LEAST_MS) / LEAST_MS) / math.log(RATIO))
        self.counts[min(place, ENTRIES - 1)] += 1
        self.total += 1
        self.most_ms = max(self.most_ms, ms)

    def quantile(self, part: float) -> float:
        """In ms, at most 5 % above the true one; 0 where nothing was counted."""
        wanted, seen = max(math.ceil(part * self.total), 1), 0
        for place, count in enumerate(self.counts):
            seen += count
            if seen >= wanted and place < ENTRIES - 1:
                return min(LEAST_MS * RATIO ** (place + 1), self.most_ms)
        return self.most_ms

    def summary(self) -> dict[str, float]:
        """p50, p99, p99.9 and max in ms."""
        found = {name: self.quantile(part) for name, part in QUANTILES.items()}
        return {name: round(ms, 4) for name, ms in {**found, "max": self.most_ms}.items()}

    def table(self) -> list[tuple[float, int]]:
        """(upper edge in ms, count) of all entries that are not empty."""
        edges = (round(LEAST_MS * RATIO ** (n + 1), 6) for n in range(ENTRIES))
        return [(edge, n) for edge, n in zip(edges, self.counts, strict=True) if n]

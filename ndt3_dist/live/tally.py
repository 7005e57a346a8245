"""What a live service has done, counted in memory that does not grow."""

from dataclasses import dataclass, field

from ndt3_dist.live.histogram import Histogram


@dataclass
class Tally:
    """Attributes:
    bin_ms: Bin size in ms, also the deadline of an answer.
    took: From when a bin was read to when its answer was ready.
    bins: That were read, those that were only observed included.
    observed: Bins without a prediction.
    missed: Bins that took longer than `bin_ms`.
    late: Bins before which none had come for longer than was allowed.
    fallbacks: Answers in place of bins that did not come.
    lost: Numbers that were left out.
    filled: Lost bins that the decoder was given as silent ones.
    resets: Times that so many were lost that the decoder forgot all instead.
    duplicates: Bins whose number, or a later one, had come before.
    refused: Frames and samples that could not be used, duplicates included.
    cut: Clients that left within a frame.
    clients: That were served.
    turned_away: That came while another was served.
    dropped: That did not read what they were sent.
    """

    bin_ms: float
    took: Histogram = field(default_factory=Histogram)
    bins: int = 0
    observed: int = 0
    missed: int = 0
    late: int = 0
    fallbacks: int = 0
    lost: int = 0
    filled: int = 0
    resets: int = 0
    duplicates: int = 0
    refused: int = 0
    cut: int = 0
    clients: int = 0
    turned_away: int = 0
    dropped: int = 0

    def text(self) -> str:
        """One line for people."""
        took = "  ".join(f"{name} {ms:.2f}" for name, ms in self.took.summary().items())
        return (
            f"{self.bins} bins of {self.bin_ms:g} ms ({self.observed} observed); ms per bin: "
            f"{took}; missed deadlines {self.missed}, late {self.late}, fall-backs "
            f"{self.fallbacks}, lost {self.lost} ({self.filled} filled, {self.resets} resets), "
            f"duplicates {self.duplicates}, refused {self.refused}; clients {self.clients}, "
            f"cut {self.cut}, turned away {self.turned_away}, dropped {self.dropped}"
        )

    def values(self) -> dict:
        """All of it, for a JSON file."""
        counts = {name: value for name, value in vars(self).items() if name != "took"}
        return {**counts, "took_ms": {**self.took.summary(), "histogram": self.took.table()}}

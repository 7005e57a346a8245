"""What some windows of a session show: rates, silent and double channels, traces, what is missing.

Streams are told apart by what they hold and not by their names: unsigned whole numbers are counts,
all other values are signals.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from ndt3_dist.shards.corpus import Corpus, Sample
from ndt3_dist.shards.manifest import Session

SEEN = 40
"""Windows of a session that are read of each split, evenly over it."""
TRACED = 3
"""Windows whose signals are shown."""
SAME = 0.5
"""Share of windows with equal counts from which two sessions are called one."""
MANY = 200
"""Counts of a bin that no neuron has."""


@dataclass
class Counts:
    """Of a stream of counts.

    Attributes:
        rates: Of each channel in Hz, (channels,).
        silent: Channels that counted nothing.
        double: Channels that equal an earlier one in every bin and counted something.
        most: Highest count of a bin.
    """

    rates: np.ndarray
    silent: list[int] = field(default_factory=list)
    double: list[int] = field(default_factory=list)
    most: int = 0


@dataclass
class Signals:
    """Of a stream of other values.

    Attributes:
        trace: Of `TRACED` windows one after the other, a row of NaN between them, (rows, dims).
        rate_hz: Rows of a second.
        missing: Share of values that are not valid.
    """

    trace: np.ndarray
    rate_hz: float
    missing: float = 0.0


@dataclass
class Inspection:
    """What was seen of a session.

    Attributes:
        counts, signals: By name of the stream.
        prints: Hashes of its windows: of their counts, or of all signals where nothing is counted.
        middle: The middle one of the windows that were read.
        start_bin: Of it.
    """

    counts: dict[str, Counts] = field(default_factory=dict)
    signals: dict[str, Signals] = field(default_factory=dict)
    prints: set[str] = field(default_factory=set)
    middle: Sample = field(default_factory=dict)
    start_bin: int = 0

    def flags(self) -> list[str]:
        """What a person should look at."""
        found = []
        for name, seen in self.counts.items():
            of = f" of {name}" if len(self.counts) > 1 else ""
            if len(seen.silent) > len(seen.rates) / 4:
                found.append(f"{len(seen.silent)} of {len(seen.rates)} channels{of} silent")
            if len(seen.double) == 1:
                found.append(f"1 channel{of} equals another")
            elif seen.double:
                found.append(f"{len(seen.double)} channels{of} equal another")
            if seen.most >= MANY:
                found.append(f"up to {seen.most} counts{of} in a bin")
        for name, seen in self.signals.items():
            if seen.missing > 0.5:
                found.append(f"{seen.missing:.0%} of {name} missing")
        return found


def inspect_session(
    corpora: list[Corpus], number: int, session: Session, bin_s: float
) -> Inspection | None:
    """Read windows of a session, by its row of the table; None where it has none."""
    samples: list[Sample] = []
    starts: list[int] = []
    for corpus in corpora:
        own = np.flatnonzero(corpus.index["session"] == number)
        chosen = own[np.argsort(corpus.index["start_bin"][own], kind="stable")]
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(SEEN, len(chosen))).astype(int)]
        samples += map(corpus.read, chosen.tolist())
        starts += corpus.index["start_bin"][chosen].tolist()
    if not samples:
        return None
    rates = {stream.name: stream.rate_hz for stream in session.streams}
    half = len(samples) // 2
    found = Inspection(middle=samples[half], start_bin=starts[half])
    for name in dict.fromkeys(name for sample in samples for name in sample):
        parts = [sample[name] for sample in samples if name in sample]
        rate_hz = rates.get(name, 1 / bin_s)
        if parts[0].dtype.kind == "u":
            found.counts[name] = inspect_counts(np.concatenate(parts), rate_hz)
        elif parts[0].ndim == 2 and parts[0].shape[1]:
            found.signals[name] = inspect_signals(parts, rate_hz)
    for sample in samples:
        held = [sample[n] for n in found.counts or found.signals if n in sample]
        found.prints.add(hashlib.sha256(b"".join(part.tobytes() for part in held)).hexdigest())
    return found


def inspect_counts(counts: np.ndarray, rate_hz: float) -> Counts:
    """Of (rows, channels)."""
    counted = counts.any(axis=0)
    first: dict[bytes, int] = {}
    channels = np.flatnonzero(counted).tolist()
    double = [c for c in channels if first.setdefault(counts[:, c].tobytes(), c) != c]
    silent = np.flatnonzero(~counted).tolist()
    return Counts(counts.mean(axis=0) * rate_hz, silent, double, int(counts.max(initial=0)))


def inspect_signals(parts: list[np.ndarray], rate_hz: float) -> Signals:
    """Of windows, (rows, dims) each."""
    gap = np.full((1, parts[0].shape[1]), np.nan, np.float32)
    shown = [np.asarray(part, np.float32) for part in parts[:: -(-len(parts) // TRACED)]]
    trace = np.concatenate([piece for part in shown for piece in (part, gap)][:-1])
    values = sum(part.size for part in parts)
    missing = sum(int(np.isnan(part).sum()) for part in parts) / max(values, 1)
    return Signals(trace, rate_hz, missing)


def doubles(seen: dict[str, Inspection]) -> list[tuple[str, str, float]]:
    """Pairs of sessions that share windows, with the share."""
    owner: dict[str, list[str]] = {}
    for name in sorted(seen):
        for print_ in seen[name].prints:
            owner.setdefault(print_, []).append(name)
    shared: dict[tuple[str, str], int] = {}
    for holders in owner.values():
        for i, a in enumerate(holders):
            for b in holders[i + 1 :]:
                shared[a, b] = shared.get((a, b), 0) + 1
    found = []
    for (a, b), count in sorted(shared.items()):
        share = count / min(len(seen[a].prints), len(seen[b].prints))
        if share >= SAME:
            found.append((a, b, share))
    return found

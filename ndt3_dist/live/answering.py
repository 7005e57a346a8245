"""What is answered to each bin, and in place of a bin that does not come.

Bins are numbered by whoever sends them. A number that was left out is a lost bin: up to `fill` of
them are given to the decoder as silent ones (each costs a step, before the bin that came is
answered); where more are lost the decoder forgets all and begins anew. When no bin has come for
`late_ms`, a stated fall-back is due for the next number, and for one more with each bin size that
passes: what a prosthesis is to do meanwhile is decided here, not by chance. A bin that comes after
its fall-back is decoded all the same. Times are of one clock in seconds, whichever is given.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.live.frames import MOST_SEQUENCE, Flag
from ndt3_dist.live.tally import Tally

FALLBACKS = "hold", "zero", "nan"


@dataclass(frozen=True)
class Policy:
    """Attributes:
    late_ms: Silence after which the fall-back is due; 0 = two bins.
    fallback: hold (what was predicted last; zeros before that), zero or nan.
    decay_ms: Time in which what is held falls to 1/e; 0 = it does not.
    fill: Most lost bins in a row that are taken for silent ones.
    """

    late_ms: float = 0
    fallback: str = "hold"
    decay_ms: float = 0
    fill: int = 10

    def __post_init__(self):
        if self.fallback not in FALLBACKS:
            raise BadInput(f"fall-back {self.fallback!r}; expected one of {', '.join(FALLBACKS)}")
        for name, value in (("late-ms", self.late_ms), ("decay-ms", self.decay_ms)):
            if not (math.isfinite(value) and value >= 0):
                raise BadInput(f"--{name} {value:g}: expected a time in ms, or 0")
        if self.fill < 0:
            raise BadInput(f"--fill {self.fill}: expected a number of bins, 0 or more")


@dataclass(frozen=True)
class Answer:
    """Attributes:
    sequence: Number of the bin.
    covariates: (dims,) float32, in raw units.
    flags: Of `Flag`.
    """

    sequence: int
    covariates: np.ndarray
    flags: int


class Answers:
    """A decoder and the bins of one client after another.

    Attributes:
        last: Number of the newest bin; None before the first.
        tally: What was done.
    """

    def __init__(
        self,
        decoder,
        scale: np.ndarray,
        bin_ms: float,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            decoder: With `channels`, `step`, `observe` and `reset` of `evaluate.online`.
            scale: Raw units per unit of a prediction, (dims,).
        """
        self.decoder, self.scale, self.policy = decoder, np.asarray(scale), policy or Policy()
        self.channels, self.clock, self.tally = decoder.channels, clock, Tally(bin_ms)
        self.bin_s = bin_ms / 1000
        self.late_s = (self.policy.late_ms or 2 * bin_ms) / 1000
        self.reset()

    def reset(self) -> None:
        """Forget all bins; the next one may have any number."""
        self.decoder.reset()
        self.last: int | None = None
        self.held = np.zeros(len(self.scale), np.float32)
        self.quiet_since, self.stood_in = 0.0, 0

    def take(
        self, sequence: int, counts: np.ndarray, read_s: float, predict: bool = True
    ) -> Answer | None:
        """Decode the next bin, or only observe it.

        Args:
            sequence: Its number.
            counts: (channels,) uint8.
            read_s: When it was read.
        Returns:
            None where it was only observed.
        Raises:
            BadInput: It cannot be used; the next one may be.
        """
        tally = self.tally
        if counts.shape != (self.channels,):
            raise BadInput(f"bin {sequence} has {len(counts)} counts; expected {self.channels}")
        if self.last is not None and sequence <= self.last:
            tally.duplicates += 1
            raise BadInput(f"bin {sequence} after bin {self.last}; expected {self.last + 1}")
        flags = 0
        if self.last is not None and read_s - self.quiet_since > self.late_s:
            flags |= Flag.LATE
            tally.late += 1
        flags |= self._catch_up(sequence)
        self.last, self.stood_in = sequence, 0
        answer = None
        if predict:
            self.held = (self.decoder.step(counts) * self.scale).astype(np.float32)
        else:
            self.decoder.observe(counts)
            tally.observed += 1
        self.quiet_since = self.clock()
        took_s = self.quiet_since - read_s
        tally.bins += 1
        tally.took.add(1000 * took_s)
        if took_s > self.bin_s:
            flags |= Flag.MISSED
            tally.missed += 1
        if predict:
            answer = Answer(sequence, self.held, int(flags))
        return answer

    def _catch_up(self, sequence: int) -> int:
        """Make up for numbers that were left out; gives the flag that says how."""
        lost = 0 if self.last is None else sequence - self.last - 1
        if not lost:
            return 0
        self.tally.lost += lost
        if lost > self.policy.fill:
            self.decoder.reset()
            self.tally.resets += 1
            return Flag.RESET
        for _ in range(lost):
            self.decoder.observe(np.zeros(self.channels, np.uint8))
        self.tally.filled += lost
        return Flag.FILLED

    def due_s(self) -> float | None:
        """When the next fall-back is due; None where no bin is awaited."""
        if self.last is None or self.last + self.stood_in >= MOST_SEQUENCE:
            return None
        return self.quiet_since + self.late_s + self.stood_in * self.bin_s

    def stand_in(self) -> Answer:
        """The fall-back for the next bin that did not come."""
        assert self.last is not None
        self.stood_in += 1
        self.tally.fallbacks += 1
        values = self.held
        if self.policy.fallback != "hold":
            values = np.full_like(values, 0 if self.policy.fallback == "zero" else np.nan)
        elif self.policy.decay_ms:
            bins = self.stood_in * self.tally.bin_ms
            values = values * np.float32(math.exp(-bins / self.policy.decay_ms))
        return Answer(self.last + self.stood_in, values, int(Flag.FALLBACK))

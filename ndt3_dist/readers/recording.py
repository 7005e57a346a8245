"""What every reader takes from a file, and what none of them accepts."""

from dataclasses import dataclass, field

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import PART
from ndt3_dist.shards.manifest import Array

SAME_BIN = 1e-4
"""Relative difference of two bin sizes that are meant to be equal: clocks are that exact."""
LONGEST_S = 24 * 3600
"""No recording lasts longer: one that seems to has times in ms, or since another epoch."""


@dataclass
class Signal:
    """A stream of a recording that is neither its spikes nor its covariates.

    Attributes:
        name: Of the stream, such as ecog.
        values: (samples, dims), NaN where not valid.
        times: Start of each sample in s on the recording's clock, (samples,), ascending.
        unit: Physical unit.
        per_bin: Rows that the corpus keeps of each bin: means of the samples in them.
        dtype: That it is stored in, float32 or float16.
        max_gap_s: Samples further apart than this leave rows that are not valid between them.
        labels: Name of each dimension, such as its electrode's.
        places: Where it is, x, y, z in mm, (dims, 3), NaN where unknown.
    """

    name: str
    values: np.ndarray
    times: np.ndarray
    unit: str
    per_bin: int = 1
    dtype: str = "float32"
    max_gap_s: float = 0.1
    labels: tuple[str, ...] = ()
    places: np.ndarray | None = None


@dataclass
class Samples:
    """Covariates with times of their own.

    Attributes:
        times: Start of each sample in s, (samples,), ascending.
        values: (samples, dims), NaN where not valid.
    """

    times: np.ndarray
    values: np.ndarray


@dataclass
class Recording:
    """What a reader takes from a file, still on the recording's own clock (seconds).

    Attributes:
        subject: Subject id.
        session: Session id.
        spike_times: Sorted times of each channel in s, arrays side by side; empty where the file
            has `counts`.
        arrays: Electrode arrays, in the order of their channels.
        start_s: Start of the recording.
        stop_s: End of the recording.
        covariate_times: Start of each covariate sample in s, (samples,).
        covariates: (samples, dims), NaN where not valid.
        more_covariates: Further dimensions, whose samples have other times.
        covariate_names: One per dimension, those of `more_covariates` last.
        covariate_unit: Physical unit of all dimensions, or of each.
        counts: Spikes that the file holds binned, (file bins, channels), from `start_s` on.
        count_bin_s: Length of a file bin in s.
        signals: Other streams.
        spans: Stretches [start, stop) in s that windows must not leave, (spans, 2), ascending;
            None = the whole recording.
        spike_error_s, covariate_error_s, span_error_s: What the distance of a spike, a sample or
            the edge of a span from `start_s` may be off by, for how times were stored
            (`clocks.stored_error`); less than EDGE of a bin is not worth saying.
        dropped_samples: Covariate samples and times that were left out for not pairing.
        said: What was decided about the file that whoever uses it should know.
    """

    subject: str
    session: str
    spike_times: list[np.ndarray]
    arrays: list[Array]
    start_s: float
    stop_s: float
    covariate_times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    covariates: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    more_covariates: list[Samples] = field(default_factory=list)
    covariate_names: tuple[str, ...] = ()
    covariate_unit: str | tuple[str, ...] = ""
    counts: np.ndarray | None = None
    count_bin_s: float = 0.0
    signals: list[Signal] = field(default_factory=list)
    spans: np.ndarray | None = None
    spike_error_s: float = 0.0
    covariate_error_s: float = 0.0
    span_error_s: float = 0.0
    dropped_samples: int = 0
    said: list[str] = field(default_factory=list)

    def add_error(self, error_s: float) -> None:
        """No time is known better than one that others are counted from."""
        self.spike_error_s = max(self.spike_error_s, error_s)
        self.covariate_error_s = max(self.covariate_error_s, error_s)
        self.span_error_s = max(self.span_error_s, error_s)

    def notes(self, bin_s: float) -> list[str]:
        """What is to be said of a recording that is none the less used."""
        said = list(self.said)
        if self.counts is None and self.spike_error_s > PART * bin_s:
            said.append(f"its spike times are held to {self.spike_error_s:.2g} s")
        steps = np.diff(self.covariate_times)
        if len(steps) and self.covariate_error_s > PART * min(float(np.median(steps)), bin_s):
            said.append(f"its covariates' times are held to {self.covariate_error_s:.2g} s")
        return said

    @property
    def covariate_units(self) -> tuple[str, ...]:
        """Unit of each dimension."""
        if isinstance(self.covariate_unit, tuple):
            return self.covariate_unit
        return (self.covariate_unit,) * len(self.covariate_names)


def check_lasts(start: float, stop: float) -> None:
    """Refuse a recording of days: its times are none in seconds of a session."""
    if not stop - start <= LONGEST_S:  # NaN too
        raise BadInput(
            f"seems to last {(stop - start) / 3600:.0f} h ({start:.3f} to {stop:.3f} s); "
            "expected times in seconds since the start of the session"
        )


def check_times(spike_times: list[np.ndarray], start: float, stop: float, remedy: str = "") -> None:
    """Refuse times that cannot be: a recording of days, spikes on another clock.

    A channel, or half of all spikes, may not lie outside the recording.
    A sparse channel may by chance fire only outside it, so one channel alone needs FEW spikes.

    Args:
        remedy: What to do where they are right.
    """
    check_lasts(start, stop)
    # Times ascend, so that two searches count what lies outside.
    outside = [
        len(t) - int(t.searchsorted(stop, "right") - t.searchsorted(start)) for t in spike_times
    ]
    everywhere = sum(outside) > sum(len(t) for t in spike_times) / 2
    for channel, (t, count) in enumerate(zip(spike_times, outside, strict=True)):
        if count > len(t) / 2 and (len(t) >= FEW or everywhere):
            raise BadInput(
                f"channel {channel} has {count} of {len(t)} spikes outside the recording "
                f"({start:.3f} to {stop:.3f} s; spikes {t[0]:.3f} to {t[-1]:.3f} s); "
                f"expected seconds on the covariates' clock{remedy}"
            )


FEW = 100
"""Spikes from which on one channel alone can show that its clock is another one."""

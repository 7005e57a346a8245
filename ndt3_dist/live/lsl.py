"""The service on Lab Streaming Layer: a stream of counts in, a stream of covariates out.

A sample of the stream that comes in is a bin: its values are the counts of all channels, its time
stamp (clocks of two machines are aligned by LSL) numbers it, so that samples that were lost are
noticed. Samples go out with the time stamp of their bin, or of the bin that they stand in for; the
last channel has the flags of docs/live.md. LSL itself listens on all networks of the machine; its
streams are announced to this machine alone unless the scope says otherwise.
"""

import time
from collections.abc import Callable

import numpy as np

from ndt3_dist import log
from ndt3_dist.errors import BadInput, Unsupported
from ndt3_dist.live.addresses import Place
from ndt3_dist.live.answering import Answer, Answers
from ndt3_dist.live.quiet import sweep
from ndt3_dist.live.sockets import SAID

LOOK_S = 1.0
"""How often one asks whether it is over where no sample comes."""
POLL_S, OTHERS_S = 0.1, 0.5
"""Time between two looks for a stream, and in which a second one of its name would answer."""
KEPT_S = 10
"""Samples that are kept for a receiver, in seconds."""
RATE_TOLERANCE = 0.01
STEER = 0.1
"""Part of a bin's deviation that the clock of bins follows."""


def library(scope: str):
    """pylsl, announcing streams in a scope, which holds for the whole process.

    Raises:
        Unsupported: It is not installed, or finds no liblsl.
    """
    try:
        import pylsl
    except (ImportError, RuntimeError, OSError) as e:
        reason = " ".join(str(e).split())[:200]
        raise Unsupported(
            f"--lsl-in and --lsl-out: pylsl cannot be used ({reason}); "
            "pip install 'ndt3_dist[live]'"
        ) from e
    pylsl.set_config_content(f"[multicast]\nResolveScope = {scope}\n[log]\nlevel = -2\n")
    return pylsl


class Lsl:
    """A stream of counts and one of covariates.

    Attributes:
        address: Names of both.
        number: Of the newest bin, from 1.
        stamp: Its time in s on this machine's LSL clock, without most of its jitter.
    """

    wake = -1

    def __init__(self, answers: Answers, hello: dict, place: Place):
        """
        Args:
            hello: What the service says of itself (`service.about`).
        """
        self.answers, self.tally, self.hello = answers, answers.tally, hello
        self.address = f"LSL streams {place.lsl_in} -> {place.lsl_out}"
        self.name_in, self.pylsl = place.lsl_in, library(place.scope)
        self.bin_s, self.stamp, self.number = hello["bin_ms"] / 1000, 0.0, 0
        self.outlet = self._outlet(place.lsl_out)

    def _outlet(self, name: str):
        lsl, hello = self.pylsl, self.hello
        dims, rate = hello["dims"], 1 / self.bin_s
        source = f"ndt3_dist {hello['session']} {name}"
        info = lsl.StreamInfo(name, "Covariates", dims + 1, rate, lsl.cf_float32, source)
        info.set_channel_labels([*hello["names"], "flags"])
        info.set_channel_units([*hello["units"], ""])
        info.set_channel_types(["covariate"] * dims + ["flags"])
        described = info.desc().append_child("decoder")
        for key in ("session", "kind", "context", "late_ms", "fallback"):
            described.append_child_value(key, str(hello[key]))
        return lsl.StreamOutlet(info, max_buffered=KEPT_S)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Decode the stream until it is over.

        Raises:
            BadInput: There are several of its name, or it is none of bins of this session.
        """
        inlet = self._inlet(is_over)
        while inlet is not None and not is_over():
            due_s, now = self.answers.due_s(), self.answers.clock()
            patience_s = LOOK_S if due_s is None else min(max(due_s - now, 0), LOOK_S)
            sample, stamp = inlet.pull_sample(patience_s)
            if sample is not None:
                self._take(sample, stamp, self.answers.clock())
                sweep(self.tally.bins)
            elif due_s is not None and self.answers.clock() >= due_s:
                answer = self.answers.stand_in()
                self._push(answer, self.stamp + (answer.sequence - self.number) * self.bin_s)

    def _inlet(self, is_over: Callable[[], bool]):
        """The stream of counts, which is waited for."""
        lsl, hello = self.pylsl, self.hello
        resolver = lsl.ContinuousResolver("name", self.name_in)
        with log.waiting(f"looking for the LSL stream {self.name_in}"):
            while not resolver.results():
                if is_over():
                    return None
                time.sleep(POLL_S)
        time.sleep(OTHERS_S)
        found = resolver.results()
        if len(found) > 1:
            hosts = ", ".join(sorted(s.hostname() for s in found))
            raise BadInput(
                f"{len(found)} LSL streams are called {self.name_in} (on {hosts}); expected one"
            )
        info, rate = found[0], 1 / self.bin_s
        channels, numbers = info.channel_count(), info.channel_format() != lsl.cf_string
        if channels != hello["channels"] or not numbers:
            what = f"{channels} channels{'' if numbers else ' of text'}"
            raise BadInput(
                f"the LSL stream {self.name_in} has {what}; expected the counts of "
                f"{hello['channels']} channels of session {hello['session']}"
            )
        given = info.nominal_srate()
        if given and abs(given / rate - 1) > RATE_TOLERANCE:
            raise BadInput(
                f"the LSL stream {self.name_in} has {given:g} samples a second; expected bins of "
                f"{hello['bin_ms']:g} ms, {rate:g} a second"
            )
        flags = lsl.proc_clocksync | lsl.proc_monotonize
        inlet = lsl.StreamInlet(info, KEPT_S, 1, processing_flags=flags, as_numpy=True)
        self.tally.clients += 1
        log.note(f"LSL stream {self.name_in} of {info.hostname()} is here")
        return inlet

    def _take(self, sample: np.ndarray, stamp: float, read_s: float) -> None:
        """Decode a sample; one that cannot be used counts as lost."""
        passed = max(round((stamp - self.stamp) / self.bin_s), 1) if self.number else 1
        number = self.number + passed
        try:
            answer = self.answers.take(number, whole(sample), read_s)
        except BadInput as e:
            self.tally.refused += 1
            if self.tally.refused <= SAID:
                log.warn(f"LSL stream {self.name_in}: {e}")
            return
        expected = self.stamp + passed * self.bin_s if self.number else stamp
        self.stamp, self.number = expected + STEER * (stamp - expected), number
        if answer:
            self._push(answer, stamp)

    def close(self) -> None:
        """End both streams."""
        del self.outlet

    def _push(self, answer: Answer, stamp: float) -> None:
        self.outlet.push_sample([*answer.covariates.tolist(), float(answer.flags)], stamp)


def whole(sample: np.ndarray) -> np.ndarray:
    """Counts of a sample, as uint8. Raises BadInput where they are none."""
    values = sample.astype(np.float64)
    is_bad = ~((values >= 0) & (values <= 255) & (values == np.rint(values)))
    if is_bad.any():
        channel = int(is_bad.argmax())
        raise BadInput(
            f"channel {channel + 1} has {values[channel]:g}; expected a whole count of spikes "
            "from 0 to 255"
        )
    return values.astype(np.uint8)

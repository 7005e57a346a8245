"""The service as a process: until a signal ends it, with what it did at the end and on demand.

SIGTERM and Ctrl-C end it in good order, with 0. SIGUSR1 prints its numbers on standard error, which
happens between two bins; with a file they are written there, too.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.online import OnlineDecoder, Units
from ndt3_dist.live import quiet
from ndt3_dist.live.addresses import Place
from ndt3_dist.live.answering import Answers, Policy
from ndt3_dist.live.frames import VERSION

UNIT = re.compile(r"(.*) \((.*)\)")
WARM_BINS = 5
ENDS = signal.SIGTERM, signal.SIGINT


def serve(
    decoder: OnlineDecoder, units: Units, policy: Policy, place: Place, stats: str | None = None
) -> None:
    """Serve until a signal says it is over.

    Args:
        stats: File for its numbers as JSON.
    Raises:
        BadInput: It cannot listen there, or the stream is another.
    """
    for _ in range(WARM_BINS):  # the first ones are slow
        decoder.step(np.zeros(decoder.channels, np.uint8))
    answers = Answers(decoder, units.scale, units.bin_ms, policy)
    told = about(decoder, units, answers)
    link = _link(place, answers, told)
    late = f"a bin is late after {told['late_ms']:g} ms, its fall-back is {policy.fallback}"
    quiet.settle()
    try:
        with signals(answers, stats, link.wake) as is_over:
            log.say(f"serving on {link.address}; {late}")
            link.run(is_over)
    finally:
        link.close()
        tell(answers, stats)


def _link(place: Place, answers: Answers, told: dict):
    """What bins come over; only what it needs is imported."""
    if place.address:
        from ndt3_dist.live.sockets import Server

        return Server(place.address, answers, told)
    from ndt3_dist.live.lsl import Lsl

    return Lsl(answers, told, place)


def about(decoder: OnlineDecoder, units: Units, answers: Answers) -> dict:
    """What a client is told first."""
    assert decoder.stream
    parts = [UNIT.fullmatch(name) for name in units.names]
    named = [(p[1], p[2]) if p else (name, "") for p, name in zip(parts, units.names, strict=True)]
    return {
        "version": VERSION,
        "session": units.session,
        "channels": decoder.channels,
        "dims": len(named),
        "names": [name for name, _ in named],
        "units": [unit for _, unit in named],
        "bin_ms": units.bin_ms,
        "context": decoder.stream.context,
        "kind": decoder.stream.kind,
        "late_ms": 1000 * answers.late_s,
        "fallback": answers.policy.fallback,
        "decay_ms": answers.policy.decay_ms,
        "fill": answers.policy.fill,
        "process": quiet.described(),
    }


@contextmanager
def signals(answers: Answers, stats: str | None, wake: int) -> Iterator[Callable[[], bool]]:
    """A block in which signals end the service or have its numbers told.

    Args:
        wake: Descriptor that a byte is written to at each signal; -1 = none.
    Returns:
        Whether it is over.
    """
    came: list[int] = []

    def is_over() -> bool:
        while signal.SIGUSR1 in came:
            came.remove(signal.SIGUSR1)
            tell(answers, stats)
        return bool(came)

    numbers = *ENDS, signal.SIGUSR1
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    before_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield is_over
    finally:
        signal.set_wakeup_fd(before_wake)
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(answers: Answers, stats: str | None) -> None:
    """Its numbers so far: a file, and a line on standard error. A full disk ends no service."""
    if stats:
        try:
            storage.write_json(stats, answers.tally.values())
        except (OSError, BadInput) as e:
            log.warn(f"{stats}: cannot be written ({' '.join(str(e).split())})")
    log.note(answers.tally.text())

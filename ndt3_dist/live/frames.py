"""Frames of the live service: a header of fixed width, then a payload of the length it says.

docs/live.md has the same for those who write a client in another language. All numbers are little-
endian. A reader refuses what is no frame by its header, before it keeps a byte of the payload.
"""

import struct
import time
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from ndt3_dist.errors import BadInput

HEADER = struct.Struct("<4sBBHIQqq")
"""Magic, version, kind, flags, bytes of payload, sequence number, time stamps (`Frame`)."""
MAGIC, VERSION = b"NDT3", 1
MOST_BYTES = 1 << 16
"""Of a payload."""
MOST_SEQUENCE = (1 << 64) - 1


class Kind(IntEnum):
    """What a frame is: BIN, OBSERVE, RESET and BYE come from clients, all but BIN and OBSERVE go to
    them."""

    HELLO = 1
    BIN = 2
    OBSERVE = 3
    RESET = 4
    COVARIATES = 5
    BYE = 6
    ERROR = 7


class Flag(IntFlag):
    """What a frame of covariates says of them (docs/live.md)."""

    FALLBACK = 1
    MISSED = 2
    LATE = 4
    FILLED = 8
    RESET = 16


class Frame(NamedTuple):
    """Attributes:
    kind: One of `Kind`.
    payload: Counts, covariates, or text.
    sequence: Number of the bin that it is or answers.
    flags: Of `Flag`.
    sent_ns: Of whoever sends it, by any clock; ours is time.monotonic_ns().
    answers_ns: `sent_ns` of the frame that it answers.
    """

    kind: int
    payload: bytes = b""
    sequence: int = 0
    flags: int = 0
    sent_ns: int = 0
    answers_ns: int = 0

    def pack(self) -> bytes:
        """As it is sent, now if it has no time stamp."""
        sent_ns = self.sent_ns or time.monotonic_ns()
        where = len(self.payload), self.sequence, sent_ns, self.answers_ns
        return HEADER.pack(MAGIC, VERSION, self.kind, self.flags, *where) + self.payload


class FrameReader:
    """Cuts what arrives, in pieces of any size, into frames.

    Attributes:
        rest: The beginning of a frame whose end has not come: bounded by `MOST_BYTES`.
    """

    def __init__(self):
        self.rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with these bytes.

        Raises:
            BadInput: What comes is no frame; where the next one would begin nobody can say.
        """
        self.rest += data
        while len(self.rest) >= HEADER.size:
            head = bytes(self.rest[: HEADER.size])
            magic, version, kind, flags, length, sequence, sent, answers = HEADER.unpack(head)
            if magic != MAGIC:
                raise BadInput(f"a frame begins with {magic!r}; expected {MAGIC!r} (docs/live.md)")
            if version != VERSION:
                raise BadInput(f"a frame of version {version}; expected {VERSION}")
            if length > MOST_BYTES:
                raise BadInput(f"a payload of {length} bytes; expected {MOST_BYTES} at most")
            end = HEADER.size + length
            if len(self.rest) < end:
                return
            payload = bytes(self.rest[HEADER.size : end])
            del self.rest[:end]
            yield Frame(kind, payload, sequence, flags, sent, answers)

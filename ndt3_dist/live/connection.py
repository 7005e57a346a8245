"""A client's connection: frames in, frames out, both bounded, neither ever waited for."""

import selectors
import socket
import time
from collections import deque
from contextlib import suppress

from ndt3_dist.errors import BadInput
from ndt3_dist.live import addresses
from ndt3_dist.live.frames import Frame, FrameReader

READ_BYTES = 1 << 16
MOST_WAITING = 256
"""Frames that a client may send ahead, besides what the kernel keeps."""
MOST_UNREAD = 1 << 17
"""Bytes that a client may leave unread, besides what the kernel keeps."""


class Gone(Exception):
    """The client has left, or is to."""


class Connection:
    """A client's socket and what is under way on it.

    Attributes:
        waiting: (frame, when it was read in s), to be answered.
        out: Bytes that the kernel did not take yet.
        ended: The client sends nothing more.
        broken: Why nothing more can be read from it.
    """

    def __init__(self, sock: socket.socket):
        self.sock, self.reader, self.out = sock, FrameReader(), bytearray()
        self.waiting: deque[tuple[Frame, float]] = deque()
        self.ended, self.broken, self.refused = False, "", 0
        sock.setblocking(False)
        addresses.undelayed(sock)

    @property
    def events(self) -> int:
        """What to wait for."""
        hears = not (self.ended or self.broken) and len(self.waiting) < MOST_WAITING
        return hears * selectors.EVENT_READ | bool(self.out) * selectors.EVENT_WRITE

    def receive(self) -> None:
        """Read what has come. Raises Gone."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as e:
            raise Gone(f"its connection broke ({e.strerror or e})") from e
        self.ended, read_s = not data, time.monotonic()
        try:
            for frame in self.reader.feed(data):
                self.waiting.append((frame, read_s))
        except BadInput as e:
            self.broken = str(e)

    def send(self, frame: Frame) -> None:
        """Send a frame, or keep it. Raises Gone."""
        self.out += frame.pack()
        self.flush()
        if len(self.out) > MOST_UNREAD:
            raise Gone(f"it does not read: {len(self.out)} bytes are kept for it")

    def flush(self) -> None:
        """Give the kernel what it takes. Raises Gone."""
        try:
            while self.out:
                del self.out[: self.sock.send(self.out)]
        except BlockingIOError:
            pass
        except OSError as e:
            raise Gone(f"its connection broke ({e.strerror or e})") from e


def hang_up(sock: socket.socket) -> None:
    """Close a socket so that what was sent last is still read."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        sock.recv(READ_BYTES)
    sock.close()

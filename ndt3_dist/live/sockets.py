"""The service on a socket: one client, which is never waited for.

One thread reads what has come, decodes bin by bin, and sends what the kernel takes at once; the
rest is kept up to a bound, behind which the client is dropped. What a client sends ahead is read up
to a bound too, behind which it has to wait. A second client is told so and turned away.
"""

import json
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ndt3_dist import log
from ndt3_dist.errors import BadInput
from ndt3_dist.live import addresses
from ndt3_dist.live.answering import Answer, Answers
from ndt3_dist.live.connection import MOST_UNREAD, READ_BYTES, Connection, Gone, hang_up
from ndt3_dist.live.frames import Frame, Kind
from ndt3_dist.live.quiet import sweep

SAID = 20
"""Refused frames of a client that are said on standard error; the rest are counted."""


class Server:
    """Attributes:
    address: Where it listens, with the port that it was given.
    client: That is served; None between two.
    wake: Descriptor; a byte that is written to it has `run` ask whether it is over.
    """

    def __init__(self, address: str, answers: Answers, hello: dict):
        """
        Args:
            hello: What a client is told first, as JSON.
        Raises:
            BadInput: The address cannot be listened on.
        """
        self.answers, self.tally = answers, answers.tally
        self.hello = json.dumps(hello).encode()
        self.client: Connection | None = None
        self.listener = addresses.listen(address)
        self.address = addresses.name_of(self.listener)
        self.woken, self._waker = socket.socketpair()
        for end in (self.woken, self._waker):
            end.setblocking(False)
        self.wake = self._waker.fileno()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, "listener")
        self.selector.register(self.woken, selectors.EVENT_READ, "woken")

    def run(self, is_over: Callable[[], bool]) -> None:
        """Serve until it is over; asked after each frame, too."""
        while not is_over():
            try:
                self._turn()
            except Gone as e:
                self._leave(str(e))
        if self.client:
            with suppress(Gone):
                self.client.send(Frame(Kind.BYE))
            self._leave("the service ends")

    def close(self) -> None:
        """Stop listening."""
        if self.client:
            self._leave("the service ends")
        self.selector.close()
        addresses.close(self.listener)
        self.woken.close()
        self._waker.close()

    def _turn(self) -> None:
        """Wait for something, and do it: at most one bin is decoded."""
        for key, events in self.selector.select(self._patience_s()):
            if key.data == "listener":
                self._welcome()
            elif key.data == "woken":
                self.woken.recv(READ_BYTES)
            elif self.client:
                if events & selectors.EVENT_WRITE:
                    self.client.flush()
                if events & selectors.EVENT_READ:
                    self.client.receive()
        if client := self.client:
            if client.waiting:
                self._handle(client, *client.waiting.popleft())
                if not client.waiting:
                    sweep(self.tally.bins)
            elif client.broken:
                self._refuse(client, Frame(Kind.ERROR), client.broken)
                raise Gone(client.broken)
            elif client.ended and not client.out:
                cut = len(client.reader.rest)
                self.tally.cut += bool(cut)
                raise Gone(f"it left {cut} bytes within a frame" if cut else "it left")
            elif (due_s := self.answers.due_s()) is not None and time.monotonic() >= due_s:
                self._answer(client, self.answers.stand_in(), 0)
            self._listen_to(client)

    def _patience_s(self) -> float | None:
        """How long nothing need be done; None = for ever."""
        client = self.client
        if client is None:
            return None
        if client.waiting or client.broken or (client.ended and not client.out):
            return 0
        due_s = self.answers.due_s()
        return None if due_s is None else max(due_s - time.monotonic(), 0)

    def _listen_to(self, client: Connection) -> None:
        key = self.selector.get_map().get(client.sock.fileno())
        if key and not client.events:
            self.selector.unregister(client.sock)
        elif key and key.events != client.events:
            self.selector.modify(client.sock, client.events, "client")
        elif not key and client.events:
            self.selector.register(client.sock, client.events, "client")

    def _welcome(self) -> None:
        """Take a client, or turn it away."""
        try:
            sock, _ = self.listener.accept()
        except OSError:  # it has left again
            return
        newcomer = Connection(sock)
        if self.client:
            self.tally.turned_away += 1
            said = b"another client is connected; one is served at a time: come back when it left"
            with suppress(Gone):
                newcomer.send(Frame(Kind.ERROR, said))
            hang_up(sock)
            return
        self.client = newcomer
        self.tally.clients += 1
        log.note(f"client {self.tally.clients} is here")
        newcomer.send(Frame(Kind.HELLO, self.hello))
        self._listen_to(newcomer)

    def _handle(self, client: Connection, frame: Frame, read_s: float) -> None:
        if frame.kind in (Kind.BIN, Kind.OBSERVE):
            try:
                counts = self._counts(frame)
                bin_ = frame.sequence, counts, read_s, frame.kind == Kind.BIN
                answer = self.answers.take(*bin_)
            except BadInput as e:
                self._refuse(client, frame, str(e))
                return
            if answer:
                self._answer(client, answer, frame.sent_ns)
        elif frame.kind == Kind.RESET:
            self.answers.reset()
            client.send(Frame(Kind.RESET, b"", frame.sequence, answers_ns=frame.sent_ns))
        elif frame.kind == Kind.BYE:
            with suppress(Gone):  # it may not wait for that
                client.send(Frame(Kind.BYE, b"", frame.sequence, answers_ns=frame.sent_ns))
            raise Gone("it said bye")
        else:
            expected = "bin (2), observe (3), reset (4) or bye (6)"
            self._refuse(client, frame, f"a frame of kind {frame.kind}; expected {expected}")

    def _counts(self, frame: Frame) -> np.ndarray:
        found, channels = len(frame.payload), self.answers.channels
        if found != channels:
            floats = next((f" (float{8 * n}?)" for n in (4, 8) if found == n * channels), "")
            raise BadInput(
                f"bin {frame.sequence} of {found} bytes{floats}; expected {channels}, a count of "
                "one byte (uint8) for each channel"
            )
        return np.frombuffer(frame.payload, np.uint8)

    def _answer(self, client: Connection, answer: Answer, answers_ns: int) -> None:
        values = answer.covariates.astype("<f4").tobytes()
        where = answer.sequence, answer.flags, 0, answers_ns
        client.send(Frame(Kind.COVARIATES, values, *where))

    def _refuse(self, client: Connection, frame: Frame, why: str) -> None:
        self.tally.refused += 1
        client.refused += 1
        if client.refused <= SAID:
            more = "; more are only counted" if client.refused == SAID else ""
            log.warn(f"client {self.tally.clients}: {why}{more}")
        where = frame.sequence, 0, 0, frame.sent_ns
        client.send(Frame(Kind.ERROR, why.encode(), *where))

    def _leave(self, why: str) -> None:
        """Part from the client; the next one begins anew."""
        client, self.client = self.client, None
        if client is None:
            return
        self.tally.dropped += len(client.out) > MOST_UNREAD
        if self.selector.get_map().get(client.sock.fileno()):
            self.selector.unregister(client.sock)
        hang_up(client.sock)
        self.answers.reset()
        log.note(f"client {self.tally.clients}: {why}")

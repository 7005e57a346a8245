"""A client of the live service, in a few lines (docs/live.md has one without this package).

with Client("unix:/tmp/ndt3.sock") as client:
    covariates = client.step(counts).covariates
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.live.addresses import connect
from ndt3_dist.live.frames import Flag, Frame, FrameReader, Kind


@dataclass(frozen=True)
class Prediction:
    """Attributes:
    sequence: Number of the bin.
    covariates: (dims,) float32, in the units of `Client.about`.
    flags: Of `Flag`.
    took_ms: From when the bin was sent to when this was sent; NaN for a fall-back.
    """

    sequence: int
    covariates: np.ndarray
    flags: Flag
    took_ms: float


class Client:
    """Attributes:
    about: What the service says of itself: channels, dims, names, units, bin_ms, ...
    sequence: Number of the next bin.
    """

    def __init__(self, address: str, timeout_s: float | None = 10):
        """
        Args:
            address: Such as unix:/tmp/ndt3.sock.
            timeout_s: For which an answer is waited for; None = for ever.
        Raises:
            BadInput: Nothing answers there, or another client is served.
        """
        try:
            self.sock = connect(address, timeout_s)
        except OSError as e:
            raise BadInput(f"{address}: no service answers there ({e.strerror or e})") from e
        self.address, self.sequence = address, 0
        self._frames = self._read()
        self.about = json.loads(self._next((Kind.HELLO,)).payload)

    def step(self, counts: np.ndarray) -> Prediction:
        """Covariates of the next bin; fall-backs that came before are passed over.

        Args:
            counts: (channels,) uint8.
        Raises:
            BadInput: The service refused it, or has ended.
        """
        number = self.send(counts)
        while (found := self.receive()).sequence != number or found.flags & Flag.FALLBACK:
            pass
        return found

    def send(self, counts: np.ndarray, predict: bool = True) -> int:
        """Send the next bin and wait for nothing; gives its number."""
        kind, number = Kind.BIN if predict else Kind.OBSERVE, self.sequence
        given = np.asarray(counts)
        if given.dtype != np.uint8 or given.ndim != 1:
            raise BadInput(f"counts of {given.dtype} {given.shape}; expected uint8, (channels,)")
        self._write(Frame(kind, given.tobytes(), number))
        self.sequence += 1
        return number

    def observe(self, counts: np.ndarray) -> None:
        """Have the next bin read, with no prediction."""
        self.send(counts, predict=False)

    def receive(self) -> Prediction:
        """The next covariates that are sent, fall-backs included."""
        frame = self._next((Kind.COVARIATES,))
        took_ms = (frame.sent_ns - frame.answers_ns) / 1e6 if frame.answers_ns else np.nan
        values = np.frombuffer(frame.payload, "<f4")
        return Prediction(frame.sequence, values, Flag(frame.flags), took_ms)

    def reset(self) -> None:
        """Have all bins forgotten; waits until that is done."""
        self._write(Frame(Kind.RESET, b"", self.sequence))
        while self._next((Kind.RESET, Kind.COVARIATES)).kind != Kind.RESET:
            pass

    def close(self) -> None:
        """Say bye, and wait for nothing."""
        try:
            self.sock.sendall(Frame(Kind.BYE).pack())
        except OSError:
            pass
        finally:
            self.sock.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write(self, frame: Frame) -> None:
        try:
            self.sock.sendall(frame.pack())
        except OSError as e:
            raise BadInput(f"{self.address}: the service is gone ({e.strerror or e})") from e

    def _next(self, kinds: tuple[Kind, ...]) -> Frame:
        frame = next(self._frames, None)
        if frame is None or frame.kind == Kind.BYE:
            raise BadInput(f"{self.address}: the service has ended")
        if frame.kind == Kind.ERROR:
            raise BadInput(f"{self.address}: {frame.payload.decode('utf-8', 'replace')}")
        if frame.kind not in kinds:
            names = " or ".join(k.name.lower() for k in kinds)
            raise BadInput(f"{self.address}: a frame of kind {frame.kind}; expected {names}")
        return frame

    def _read(self) -> Iterator[Frame]:
        reader = FrameReader()
        while True:
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                seconds = self.sock.gettimeout()
                yield Frame(Kind.ERROR, f"no answer within {seconds:g} s".encode())
                continue
            except OSError:
                return
            if not data:
                return
            yield from reader.feed(data)

"""Where a live service listens: a socket in the file system, or a port of the loopback address.

A service has no password, so that nothing but this machine may reach it: a socket file is for its
owner alone, a port for all users of the machine.
"""

import ipaddress
import os
import re
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass

from ndt3_dist.errors import BadInput

EXPECTED = "expected unix:PATH or tcp://127.0.0.1:PORT"
TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):([0-9]{1,5})")
LONGEST = 107
"""Bytes of the path of a socket."""
SCOPES = "machine", "link", "site", "organization", "global"
"""In which LSL looks for streams and announces its own, from narrow to wide."""


@dataclass(frozen=True)
class Place:
    """Where bins come from and covariates go: an address, or two streams of LSL.

    Attributes:
        address: As in `parse`; empty for LSL.
        lsl_in, lsl_out: Names of streams.
        scope: One of `SCOPES`.
    """

    address: str = ""
    lsl_in: str = ""
    lsl_out: str = ""
    scope: str = "machine"

    def __post_init__(self):
        if self.address or not self.lsl_in:
            parse(self.address)
        elif not self.lsl_out:
            raise BadInput("--lsl-in without --lsl-out NAME; expected names of both streams")
        for name in (self.lsl_in, self.lsl_out):
            if "'" in name or '"' in name:
                raise BadInput(f"LSL stream {name!r}; expected a name without quotes")


def parse(address: str) -> tuple[int, str | tuple[str, int]]:
    """(family, where) of an address, for `socket`.

    Raises:
        BadInput: It is none, or one that other machines reach.
    """
    if address.startswith("unix:") and (path := address.removeprefix("unix:")):
        if len(os.fsencode(path)) > LONGEST or "\0" in path:
            raise BadInput(f"{address}: the path of a socket; expected {LONGEST} bytes at most")
        return socket.AF_UNIX, path
    found = TCP.fullmatch(address)
    if not found or int(found[2]) > 65535:
        raise BadInput(f"{address}: no address; {EXPECTED}")
    host = "127.0.0.1" if found[1] == "localhost" else found[1].strip("[]")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise BadInput(f"{address}: {host} is no address of numbers; {EXPECTED}") from None
    if not ip.is_loopback:
        raise BadInput(
            f"{address}: {host} can be reached from other machines, and the service knows no "
            f"password; {EXPECTED}, and a tunnel (ssh -L) from elsewhere"
        )
    return (socket.AF_INET6 if ip.version == 6 else socket.AF_INET), (host, int(found[2]))


def connect(address: str, timeout_s: float | None = None) -> socket.socket:
    """A connection to a service; an OSError where there is none."""
    family, where = parse(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    undelayed(sock)
    return sock


def listen(address: str) -> socket.socket:
    """A socket that others may connect to.

    Raises:
        BadInput: The address is taken, or cannot be listened on.
    """
    family, where = parse(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(where, str):
            _make_way(where)
            before = os.umask(0o177)
            try:
                sock.bind(where)
            finally:
                os.umask(before)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
        sock.listen(8)
    except OSError as e:
        sock.close()
        raise BadInput(f"{address}: cannot listen there ({e.strerror or e}); choose another") from e
    except BadInput:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def name_of(sock: socket.socket) -> str:
    """The address of a listening socket, with the port that it was given."""
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{where}"
    host = f"[{where[0]}]" if sock.family == socket.AF_INET6 else where[0]
    return f"tcp://{host}:{where[1]}"


def undelayed(sock: socket.socket) -> None:
    """Send small frames at once."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def close(sock: socket.socket) -> None:
    """Stop listening; the file of a socket goes, too."""
    path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    sock.close()
    if path:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _make_way(path: str) -> None:
    """Remove the socket of a service that has ended; refuse to touch anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BadInput(f"unix:{path}: a file that is no socket lies there; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise BadInput(f"unix:{path}: another service listens there; choose another path")

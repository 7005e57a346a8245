"""The board's web server: four addresses, reading alone, for whoever sits at this machine.

It listens on the loopback address unless told otherwise. A request whose Host is a name is refused,
so that no page of another site reaches it by a name of its own that points here. Nothing that it
sends may load anything from elsewhere.
"""

import ipaddress
import re
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from ndt3_dist.cluster.board.answers import Answers, as_json
from ndt3_dist.cluster.board.shell import shell

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HTML, JSON = "text/html; charset=utf-8", "application/json"
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]@/\\]+)(?::\d{1,5})?")
MOST_FIELDS = 20
SCRIPT = Path(__file__).with_name("board.js")


class Refused(Exception):
    """A request that is not answered: status and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status, self.why = status, why


class BoardServer(ThreadingHTTPServer):
    """Serves the answers; its port is `server_address[1]`."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], answers: Answers):
        """
        Raises:
            OSError: The address or port cannot be had.
        """
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.answers = answers
        self.names = {"localhost"}
        if not is_loopback(address[0]):
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        super().__init__(address, BoardRequest)

    def server_bind(self) -> None:
        """Bind without asking a name server for the name of the address."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request, client_address) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class BoardRequest(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: BoardServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        try:
            self._check()
            body, kind = self._found()
        except Refused as e:
            self.send_error(e.status, e.why)
            return
        self._send(200 if body is not None else 304, body, kind)

    def _check(self) -> None:
        """Raises Refused for a request that is not for this board, or carries something."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not is_ours(hosts[0], self.server.names):
            raise Refused(421, "this board answers to its address and to localhost")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin") and self.path != "/":  # a link may lead here
            raise Refused(403, "another site asked")
        if self.headers.get("Content-Length", "0") != "0" or self.headers.get("Transfer-Encoding"):
            raise Refused(413, "nothing can be sent here")

    def _found(self) -> tuple[bytes | None, str]:
        """The answer and its kind; None = what the browser has is still so."""
        parts = urlsplit(self.path)
        if parts.path == "/":
            return shell(), HTML
        if parts.path == "/board.js":
            return SCRIPT.read_bytes(), "text/javascript; charset=utf-8"
        if parts.path not in ("/runs", "/view"):
            raise Refused(404, "there is /, /board.js, /runs and /view")
        try:
            asked = dict(parse_qsl(parts.query, max_num_fields=MOST_FIELDS))
        except ValueError as e:
            raise Refused(400, "too many fields") from e
        if parts.path == "/runs":
            return as_json(self.server.answers.listed(asked)), JSON
        found = self.server.answers.view(asked, self.headers.get("If-None-Match", ""))
        return (None if found is None else as_json(found)), JSON

    def _send(self, status: int, body: bytes | None, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is not None and self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None):
        """As plain text under the same headers; the connection ends."""
        if code == 501:  # what http.server says of methods that are not here
            code, message = 405, "only GET and HEAD"
        self.close_connection = True
        body = f"{code}: {message or 'refused'}\n".encode(errors="replace")
        self.send_response(code)
        for name, value in {**HEADERS, "Connection": "close", "Allow": "GET, HEAD"}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "ndt3"

    def log_message(self, format: str, *args) -> None:
        """Requests are not logged."""


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_ours(host: str, names: set[str]) -> bool:
    """Whether a Host header is an address of numbers or one of our names, with any port.

    A page of another site can have its own name point here, but no number: that it cannot own. The
    port may be that of a tunnel.
    """
    found = HOST.fullmatch(host.lower())
    if not found:
        return False
    name = found[1].strip("[]")
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""A real S3 server on a free port, behind a proxy that can fail in the ways stores do.

rclone's, or moto's where a bucket is to keep versions.
"""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET = "test-key", "test-secret"
REFUSALS = {
    "403": (403, "AccessDenied"),
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "200": (200, "InternalError"),  # how a completion of parts may fail
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(root: Path, versions: bool) -> tuple[subprocess.Popen, int]:
    """A server that answers, and its port; another one where a port is somebody's by then."""
    program = Path(sys.executable).with_name("moto_server" if versions else "rclone")
    null = subprocess.DEVNULL
    for _ in range(10):
        port = free_port()
        command = [program, "serve", "s3", root, "--addr", f"127.0.0.1:{port}"]
        command += ["--auth-key", f"{KEY},{SECRET}", "--dir-cache-time", "10ms"]  # 0s: it hangs
        if versions:
            command = [program, "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        ends = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < ends:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return process, port
            time.sleep(0.05)
        process.kill()
        process.wait()
    raise RuntimeError(f"{program} does not begin to serve")


class S3:
    """Buckets are folders of `root`; with `versions` they lie in the memory of another server.

    Attributes:
        faults: (method, part of a path, kind, how often) to come; kinds are 403, 500, 503, 200 (an
            error in it), storm (503 to everybody for 3 s), reset (in the middle of what is sent),
            lost (done, and not answered), slow, cut, flip.
        gets: (path, bytes sent) of each object that was asked for with GET.
        asked: (method, path and query) of every request.
        lag_s: Seconds before each answer.
    """

    def __init__(self, root: Path, versions: bool = False):
        self.root = root
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)  # its port is held from here on
        self.port = self.server.server_address[1]
        self.faults: list[list] = []
        self.gets: list[tuple[str, int]] = []
        self.asked: list[tuple[str, str]] = []
        self.storm_ends = self.lag_s = 0.0
        self.behind, behind = serve(root, versions)
        self.server.RequestHandlerClass = type("Proxy", (Proxy,), {"s3": self, "behind": behind})
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def fail(self, key: str, kind: str, times: int = 10**6, method: str = "GET") -> None:
        """Fail requests for objects with `key` in their path."""
        self.faults.append([method, key, kind, times])

    def fault_of(self, method: str, path: str) -> str | None:
        if time.monotonic() < self.storm_ends:
            return "503"
        if "list-type" in path:
            return None
        for fault in self.faults:
            if fault[0] == method and fault[1] in path and fault[3] > 0:
                fault[3] -= 1
                if fault[2] == "storm":
                    self.storm_ends = time.monotonic() + 3
                    return "503"
                return fault[2]
        return None

    def close(self) -> None:
        self.server.shutdown()
        self.behind.kill()
        self.behind.wait()


class Proxy(BaseHTTPRequestHandler):
    s3: S3
    behind: int
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.s3.asked.append((self.command, self.path))
        fault = self.s3.fault_of(self.command, self.path)
        time.sleep(self.s3.lag_s)
        if fault == "reset":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        sent = self.rfile.read(length)
        if fault in REFUSALS:
            status, code = REFUSALS[fault]
            said = f"<Code>{code}</Code><Message>injected</Message>"
            body = f"<Error>{said}</Error>"
            if fault == "200" and "?delete" in self.path:  # each object's own error
                named = re.findall(r"<Object>(.*?)</Object>", sent.decode())
                each = "".join(f"<Error>{name}{said}</Error>" for name in named)
                body = f"<DeleteResult>{each}</DeleteResult>"
            body = body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)
        # What was expected has come: the whole body is here.
        asked = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        upstream.request(self.command, self.path, sent, asked)
        response = upstream.getresponse()
        body = response.read()
        if fault == "lost":
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        size = response.getheader("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        if self.command == "GET":
            self.s3.gets.append((self.path.split("?")[0], len(body)))
        self.send_body(body, fault)

    def send_body(self, body: bytes, fault: str | None) -> None:
        if fault == "flip":
            body = body[:600] + bytes([body[600] ^ 4]) + body[601:]
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            for byte in body[:100]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(1)
        else:
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format, *args):
        pass


def use(s3: S3) -> None:
    """Make this process's s3:// URLs mean that server."""
    import s3fs

    os.environ.update(s3.environment)
    s3fs.S3FileSystem.clear_instance_cache()

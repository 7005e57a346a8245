"""A real browser without a window, told what to do over two pipes (its DevTools protocol)."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
MISSING = "" if PROGRAM else f"none of {', '.join(NAMES)} is installed (apt-get install chromium)"
QUIET = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
QUIET += " disable-component-update disable-sync remote-debugging-pipe hide-scrollbars"


class Browser:
    """One page.

    Attributes:
        requests: Addresses that it asked for.
        said: What its console said: errors, refusals of the page's policy.
    """

    def __init__(self, folder: Path):
        """
        Args:
            folder: For its profile; a new one.
        """
        theirs, ours = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs[0], ours[1])]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        flags = [f"--{word}" for word in QUIET.split()] + [f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "browser", str(PROGRAM), *flags, "about:blank"],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (*ends, theirs[0], ours[1]):
            os.close(fd)
        self.to, self.back, self.buffer = theirs[1], ours[0], b""
        self.number, self.session = 0, ""
        self.requests: list[str] = []
        self.said: list[str] = []
        pages = self.ask("Target.getTargets")["targetInfos"]
        (page,) = [p for p in pages if p["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for what in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{what}.enable")

    def close(self) -> None:
        os.close(self.to)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.back)

    def ask(self, method: str, **params) -> dict:
        """Send a command and wait for what it returns."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data) :]
        until = time.monotonic() + 60
        while True:
            answer = self._next(until)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _next(self, until: float) -> dict:
        while b"\0" not in self.buffer:
            left = until - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self.back], [], [], left)[0]:
                piece = os.read(self.back, 1 << 16)
                assert piece, "the browser has ended"
                self.buffer += piece
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"])[:500])

    def window(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Give the page a size in CSS pixels, and whoever looks at it a taste."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, script: str):
        """What an expression comes to in the page."""
        found = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 30):
        """Wait until an expression is true; its value."""
        ends = time.monotonic() + seconds
        while not (found := self.value(script)):
            if time.monotonic() > ends:
                text = re.sub(r"\s+", " ", self.value("document.body.innerText"))
                raise AssertionError(f"never: {script}; {self.said}; the page says: {text[:1500]}")
            time.sleep(0.05)
        return found

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

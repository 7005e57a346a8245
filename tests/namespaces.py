"""Hosts on one machine: network namespaces, each with a cable to one switch.

Needs root and iproute2. The hosts share file system and processes; only the network is apart. All
of it is gone afterwards.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

ADDRESSES = tuple(f"10.77.0.{number}" for number in range(1, 9))


def missing(tools: tuple[str, ...] = ("ip",), packages: str = "iproute2") -> str:
    """What this machine lacks; empty where it can play hosts."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [tool for tool in tools if not shutil.which(tool, path=path)]
    if os.geteuid():
        return "it needs root"
    if lacking:
        return f"no {', '.join(lacking)} (apt-get install {packages})"
    probe = f"ndt3-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "no network namespaces here"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Namespaces:
    """A context; `names` are those of the hosts' namespaces, two unless told otherwise."""

    def __init__(self, number: int = 2):
        self.names = [f"ndt3-{os.getpid()}-{i}" for i in range(number)]
        self.switch = f"ndt3-{os.getpid()}-switch"

    def __enter__(self):
        try:
            self._connect()
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for number, name in enumerate(self.names):
            self.kill(number)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.switch], capture_output=True)

    def begin(self) -> None:
        """What is to run on the hosts from the start; for subclasses."""

    def _connect(self):
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        ip("-n", self.switch, "link", "set", "switch", "up")
        for number, (name, address) in enumerate(zip(self.names, ADDRESSES, strict=False)):
            ip("netns", "add", name)
            port = f"port{number}"
            peer = ["peer", "name", port, "netns", self.switch]
            ip("-n", name, "link", "add", "eth0", "type", "veth", *peer)
            ip("-n", self.switch, "link", "set", port, "master", "switch", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")

    def cable(self, number: int, state: str) -> None:
        """Set a host's end of the cable `up` or `down`."""
        ip("-n", self.names[number], "link", "set", "eth0", state)

    def on(self, number: int) -> list[str]:
        """Words before a command that is to run on a host."""
        return ["ip", "netns", "exec", self.names[number]]

    def kill(self, number: int) -> None:
        """All processes of a host at once."""
        for pid in self.pids(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self, number: int, named: str = "") -> list[int]:
        """Processes of a host, those whose command line holds `named`."""
        command = ["ip", "netns", "pids", self.names[number]]
        listed = subprocess.run(command, capture_output=True, text=True)
        found = []
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):
                if named.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


def wait_until(what, seconds: float, process: subprocess.Popen) -> None:
    """Until something is so, or the process has ended."""
    deadline = time.time() + seconds
    while not what() and process.poll() is None:
        assert time.time() < deadline
        time.sleep(0.02)

"""A run on hosts that are reached by ssh: who answers, its start, and signals to its ranks."""

import os
import shlex
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.cluster.launch.hostfile import Host
from ndt3_dist.errors import Ndt3DistError

SSH_ARGS = "PDSH_SSH_ARGS_APPEND"
"""Where pdsh, which `deepspeed` starts, is told more for ssh; it holds for our own calls, too."""
ANSWER_S = 10.0
"""Time that a host has to answer."""
AT_ONCE = 64
KEEP = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"
"""Else ssh to a host that is gone never ends."""


@dataclass(frozen=True)
class Run:
    """A run that `deepspeed` starts on some of a hostfile's hosts.

    Attributes:
        hostfile: That the hosts stand in.
        folder: Of the run.
        words: Of launch/pretrain.py, with run.dir and run.name.
        mark: Those of them that no other run in this folder has.
    """

    hostfile: str
    folder: str
    words: list[str]
    mark: list[str]

    def answering(self, hosts: list[Host]) -> list[Host]:
        """Those of some hosts that ssh reaches, in their order."""
        said = _on_each(hosts, lambda host: _ssh(host, "true", ANSWER_S))
        return [host for host, code in zip(hosts, said, strict=True) if code is not None]

    def start(self, hosts: list[Host], resume: str, note: str) -> subprocess.Popen:
        """The `deepspeed` command on some hosts, the head of a group of processes."""
        deepspeed = str(Path(sys.executable).with_name("deepspeed"))
        # A port of the run's own, below those that systems give out.
        port = 20000 + zlib.crc32(self.folder.encode()) % 10000
        command = [deepspeed, "-q", "--force_multi", "--no_ssh_check", "--hostfile", self.hostfile]
        command += ["--include", "@".join(host.name for host in hosts)]
        command += ["--master_addr", hosts[0].name, "--master_port", str(port)]
        command += ["--module", "ndt3_dist.programs.pretrain", "--resume", resume]
        command += ["--note", note] if note else []
        # A shell on the host takes them apart; what holds a space is quoted by `deepspeed`.
        command += [word if " " in word else shlex.quote(word) for word in self.words]
        ssh = f"{os.environ.get(SSH_ARGS, '')} {KEEP}".strip()
        environment = {**os.environ, "PDSH_RCMD_TYPE": "ssh", SSH_ARGS: ssh}
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
        )

    def signal(self, hosts: list[Host], name: str) -> int:
        """Send TERM, KILL, ... or NONE to the run's ranks on some hosts; how many there are."""
        words = [sys.executable, "-m", "ndt3_dist.cluster.launch.own_ranks", name, *self.mark]
        path = f"PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}"
        command = f"cd {shlex.quote(os.getcwd())} && {path} {shlex.join(words)}"
        said = _on_each(hosts, lambda host: _ssh(host, command, 3 * ANSWER_S))
        return sum(int(text) for text in said if text and text.strip().isdigit())

    def num_starts(self) -> int:
        """Starts of the run that began to train."""
        with suppress(OSError, Ndt3DistError):
            return len(storage.read_text(storage.join(self.folder, "starts.jsonl")).splitlines())
        return 0


def end(process: subprocess.Popen) -> None:
    """Kill a command that `Run.start` gave, with all that it started on this host."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _on_each(hosts: list[Host], call: Callable[[Host], str | None]) -> list[str | None]:
    if not hosts:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        return list(pool.map(call, hosts))


def _ssh(host: Host, command: str, seconds: float) -> str | None:
    """What a command on a host prints; None where the host does not answer or it failed."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={ANSWER_S:.0f}"]
    options += shlex.split(os.environ.get(SSH_ARGS, ""))
    try:
        done = subprocess.run(
            ["ssh", *options, host.name, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else done.stdout

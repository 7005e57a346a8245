"""Two hosts on one machine: network namespaces with an sshd each, and an S3 server on the first.

Needs root, iproute2, openssh-server and pdsh. Hosts share the file system; only the network is
apart. All of it is gone afterwards.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from launching import ROOT, SMALL

ADDRESSES = ("10.77.0.1", "10.77.0.2")
TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "pdsh")
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def missing() -> str:
    """What this machine lacks; empty where it can play two hosts."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    if os.geteuid():
        return "it needs root"
    if lacking:
        return f"no {', '.join(lacking)} (apt-get install iproute2 openssh-server pdsh)"
    probe = f"ndt3-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "no network namespaces here"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


class Hosts:
    """A context; `names` are those of the two namespaces."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = [f"ndt3-{os.getpid()}-{i}" for i in (0, 1)]

    def __enter__(self):
        try:
            self._connect()
            key = self.folder / "key"
            ssh_keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(ssh_keygen, check=True)
            Path("/run/sshd").mkdir(exist_ok=True)
            for number in (0, 1):
                self.sshd(number)
            self._serve_s3()
            self._write_files(key)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for number, name in enumerate(self.names):
            self.kill(number)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def _connect(self):
        def ip(*words):
            subprocess.run(["ip", *words], check=True)

        for name in self.names:
            ip("netns", "add", name)
        ends = [f"nv{os.getpid()}{i}" for i in (0, 1)]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(self.names, ends, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", name, "name", "eth0")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")

    def sshd(self, number: int) -> None:
        """Start a host's sshd."""
        key = self.folder / "key"
        options = {
            "PidFile": self.folder / f"sshd{number}.pid",
            "HostKey": key,
            "AuthorizedKeysFile": f"{key}.pub",
            "StrictModes": "no",
            "UsePAM": "no",
        }
        told = [word for k, v in options.items() for word in ("-o", f"{k}={v}")]
        subprocess.run([*self.on(number), "/usr/sbin/sshd", "-f", "/dev/null", *told], check=True)

    def on(self, number: int) -> list[str]:
        """Words before a command that is to run on a host."""
        return ["ip", "netns", "exec", self.names[number]]

    def kill(self, number: int) -> None:
        """All processes of a host at once, sshd too."""
        for pid in self._pids(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ranks(self, number: int) -> list[int]:
        """Processes of a training on a host."""
        found = []
        for pid in self._pids(number):
            with contextlib.suppress(OSError):
                if b"launch/pretrain.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def _pids(self, number: int) -> list[int]:
        command = ["ip", "netns", "pids", self.names[number]]
        listed = subprocess.run(command, capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def _serve_s3(self):
        (self.folder / "s3" / "bucket").mkdir(parents=True)
        rclone = Path(sys.executable).with_name("rclone")
        command = [*self.on(0), str(rclone), "serve", "s3", str(self.folder / "s3")]
        command += ["--addr", f"{ADDRESSES[0]}:9000", "--auth-key", "key,secret"]
        subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def _write_files(self, key: Path):
        for number in (1, 2):
            lines = [f"{address} slots=1\n" for address in ADDRESSES[:number]]
            (self.folder / f"hosts{number}").write_text("".join(lines))
        ssh = f"-i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        shared = {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://{ADDRESSES[0]}:9000",
            "AWS_DEFAULT_REGION": "us-east-1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        # What the launcher sets on every host.
        text = "".join(f"{k}={v}\n" for k, v in shared.items())
        (self.folder / "environment").write_text(text)
        self.environment = {
            **os.environ,
            **shared,
            "DS_ENV_FILE": str(self.folder / "environment"),
            "PDSH_RCMD_TYPE": "ssh",
            "PDSH_SSH_ARGS_APPEND": ssh,
        }

    def launch(
        self, name: str, hosts: int, extra=(), resume="never"
    ) -> tuple[subprocess.Popen, Path]:
        """`deepspeed --hostfile` on the first host; the process and its log."""
        self.launches = getattr(self, "launches", 0) + 1
        deepspeed = str(Path(sys.executable).with_name("deepspeed"))
        command = [*self.on(0), deepspeed, "--hostfile", str(self.folder / f"hosts{hosts}")]
        command += ["--master_addr", ADDRESSES[0], "--master_port", str(29500 + self.launches)]
        command += ["--no_ssh_check"]  # it would ask with the keys of the user alone
        if hosts == 1:
            command += ["--num_accelerators", "1"]
        command += ["launch/pretrain.py", "--config", "demo.yaml", "data.corpus=s3://bucket/c"]
        command += [f"data.cache={self.folder / 'cache'}", f"run.dir={self.folder}"]
        command += [f"run.name={name}", "--resume", resume, *SMALL, *extra]
        log = self.folder / f"{name}.log{self.launches}"
        with log.open("w") as f:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=f, stderr=subprocess.STDOUT
            )
        return process, log


def wait_until(what, seconds: float, process: subprocess.Popen) -> None:
    """Until something is so, or the process has ended."""
    deadline = time.time() + seconds
    while not what() and process.poll() is None:
        assert time.time() < deadline
        time.sleep(0.02)

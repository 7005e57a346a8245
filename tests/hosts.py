"""Hosts on one machine: network namespaces with an sshd each, and an S3 server on the first.

Needs root, iproute2, openssh-server and pdsh. Hosts share the file system; only the network is
apart. All of it is gone afterwards.
"""

import os
import subprocess
import sys
from pathlib import Path

import namespaces
from launching import ROOT, SMALL
from namespaces import ADDRESSES

TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "pdsh")
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def missing() -> str:
    """What this machine lacks; empty where it can play hosts."""
    return namespaces.missing(TOOLS, "iproute2 openssh-server pdsh")


class Hosts(namespaces.Namespaces):
    """A context; `names` are those of the hosts' namespaces, two unless told otherwise."""

    def __init__(self, folder: Path, number: int = 2):
        super().__init__(number)
        self.folder = folder

    def begin(self) -> None:
        key = self.folder / "key"
        ssh_keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(ssh_keygen, check=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        for number in range(len(self.names)):
            self.sshd(number)
        self._serve_s3()
        self._write_files(key)

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

    def ranks(self, number: int) -> list[int]:
        """Processes of a training on a host."""
        return self.pids(number, "launch/pretrain.py")

    def _serve_s3(self):
        (self.folder / "s3" / "bucket").mkdir(parents=True)
        rclone = Path(sys.executable).with_name("rclone")
        command = [*self.on(0), str(rclone), "serve", "s3", str(self.folder / "s3")]
        command += ["--addr", f"{ADDRESSES[0]}:9000", "--auth-key", "key,secret"]
        subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def _write_files(self, key: Path):
        for number in range(1, len(self.names) + 1):
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

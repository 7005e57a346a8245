"""`ray job submit` as docs/prepare.md has it, on a head that this machine alone can reach."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from launching import ROOT
from nwb_files import write_session

from ndt3_dist.storage import sha256_file

PREPARE = ["data_prep/preprocess.py", "--recipe", "nwb.yaml", "dataset=t", "shard_mb=0.05"]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the loopback address
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "fedcba9876543210" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
}


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [server.getsockname()[1] for server in servers]


@pytest.fixture
def head(tmp_path):
    """The process of a head and the address of its dashboard."""
    scratch = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a short path, for sockets
    port, dashboard, client, agent = map(str, free_ports(4))
    command = ["ray", "start", "--head", "--block", "--num-cpus", "2", "--temp-dir", scratch]
    command += ["--port", port, "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard]
    command += ["--ray-client-server-port", client, "--dashboard-agent-listen-port", agent]
    log = tmp_path / "head.log"
    with log.open("w") as f:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=f, stderr=f, cwd=tmp_path
        )
    try:
        deadline = time.time() + 90
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.time() < deadline
            time.sleep(0.2)
        yield process, f"http://127.0.0.1:{dashboard}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        for member in [process, *family]:
            with contextlib.suppress(psutil.Error):
                member.kill()
        process.wait()
        psutil.wait_procs(family, timeout=30)
        shutil.rmtree(scratch, ignore_errors=True)


def submit(address: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
    return subprocess.run(
        [*command, "python", *words],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def hashes(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def listeners(process: psutil.Process) -> set[str]:
    with contextlib.suppress(psutil.Error):
        found = process.net_connections("inet")
        return {c.laddr.ip.removeprefix("::ffff:") for c in found if c.status == "LISTEN"}
    return set()


@pytest.mark.drill
def test_a_preparation_that_is_submitted_makes_the_bytes_of_a_local_one(head, tmp_path):
    process, address = head
    for number in range(6):
        write_session(tmp_path / "nwb" / f"{number}.nwb", seed=number, seconds=60.0)
    source = f"source={tmp_path / 'nwb'}"
    out, whole = tmp_path / "submitted", tmp_path / "whole"
    done = submit(address, *PREPARE, source, f"out={out}", "ray_address=auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 sessions, 174 windows" in done.stdout
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert set().union(*map(listeners, family)) == {"127.0.0.1"}
    local = [sys.executable, *PREPARE, source, f"out={whole}", "num_workers=2"]
    subprocess.run(local, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert hashes(out) == hashes(whole)
    # What is refused ends the job with its line; who has no token cannot submit one.
    done = submit(address, *PREPARE, "source=nwb", f"out={out}", "ray_address=auto")
    assert done.returncode == 1
    assert "error: source nwb: is relative" in done.stdout + done.stderr
    done = submit(address, "-c", "print(1)", RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert "token" in done.stderr

"""`ndt3 launch` on four hosts: one is lost in the middle, fewer go on, and all when it is back."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import ADDRESSES, Hosts, missing
from launching import ROOT, SMALL
from namespaces import wait_until
from ranks import run_ranks

from ndt3_dist.train.run_metrics import read_metrics

LOST = 3
"""Number of the host that is lost."""
LONG = ["train.max_steps=100000", "train.epochs=100000"]


@pytest.fixture
def hosts(tmp_path):
    if lacking := missing():
        pytest.skip(f"no four hosts on this machine: {lacking}")
    with Hosts(tmp_path, 4) as found:
        yield found
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    assert not {*found.names, found.switch} & {*listed.stdout.split()}


def supervise(hosts, corpus, *words: str) -> tuple[subprocess.Popen, Path]:
    """`ndt3 launch` on the first host; the process and its log."""
    command = [*hosts.on(0), sys.executable, "launch/launch.py", "--config", "demo.yaml"]
    command += ["--hostfile", str(hosts.folder / "hosts4"), "--check-s", "2", "--backoff-s", "1"]
    command += [f"data.corpus={corpus}", f"run.dir={hosts.folder}", "run.name=r", *SMALL]
    log = hosts.folder / "launch.log"
    with log.open("w") as f:
        process = subprocess.Popen(
            [*command, *LONG, "checkpoint.stop_within_s=6", *words],
            cwd=ROOT,
            env=hosts.environment,
            stdout=f,
            stderr=subprocess.STDOUT,
        )
    return process, log


def starts(hosts) -> list[dict]:
    file = hosts.folder / "r" / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def losses(folder: Path) -> dict[int, float]:
    return {m["step"]: m["loss"] for m in read_metrics(folder / "r")}


def lose_and_return(hosts, corpus, *words: str) -> tuple[dict[int, float], list[dict], str]:
    """Four hosts, without one of them, and four again; losses, starts and what was said."""
    process, log = supervise(hosts, corpus, *words)
    try:
        for number in (1, 2, 3):
            wait_until(lambda n=number: len(starts(hosts)) == n, 180, process)
            begun = max(losses(hosts.folder), default=0)
            wait_until(lambda b=begun: max(losses(hosts.folder), default=0) > b + 5, 180, process)
            assert process.poll() is None, log.read_text()
            if number == 1:
                hosts.cable(LOST, "down")
                hosts.kill(LOST)
            if number == 2:
                hosts.cable(LOST, "up")
                hosts.sshd(LOST)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    deadline = time.time() + 20
    while any(hosts.pids(number, "ndt3_dist.programs.pretrain") for number in range(4)):
        assert time.time() < deadline
        time.sleep(0.2)
    return losses(hosts.folder), starts(hosts), log.read_text()


def test_a_run_goes_on_without_a_lost_host_and_grows_when_it_is_back(hosts, corpus):
    found, begun, said = lose_and_return(hosts, corpus)
    lost = ADDRESSES[LOST]
    assert [start["ranks"] for start in begun] == [4, 2, 4]
    assert begun[1]["note"] == f"lost {lost}, without {ADDRESSES[2]}, {lost}"
    assert begun[2]["note"] == f"with {ADDRESSES[2]}, {lost} again"
    assert f"launch: 2 of 4 hosts, 2 ranks: {begun[1]['note']}" in said
    assert f"launch: 4 of 4 hosts, 4 ranks: {begun[2]['note']}" in said
    code, log = run_ranks(
        hosts.folder / "whole", corpus, 2, [*LONG, f"train.max_steps={max(found)}"]
    )
    assert code == 0, log
    assert found == losses(hosts.folder / "whole")


@pytest.mark.drill
def test_three_hosts_go_on_where_they_share_a_step_evenly(hosts, corpus):
    twelve = ["train.global_batch=12"]
    found, begun, _ = lose_and_return(hosts, corpus, *twelve)
    assert [start["ranks"] for start in begun] == [4, 3, 4]
    most = [*LONG, f"train.max_steps={max(found)}"]
    code, log = run_ranks(hosts.folder / "whole", corpus, 2, [*twelve, *most])
    assert code == 0, log
    assert found == pytest.approx(losses(hosts.folder / "whole"), rel=1e-3)

"""The live service for ten seconds beside a busy core; in its long form a million bins."""

import os
import re
import subprocess
import sys

import numpy as np
import psutil
import pytest
from live_parts import CHANNELS, write_least_export

from ndt3_dist.config import PROJECT
from ndt3_dist.live.client import Client

MILLION = 1_000_000


def test_ten_seconds_on_schedule_beside_a_busy_core(tmp_path):
    command = [sys.executable, PROJECT / "benchmarks" / "soak.py", "--size", "tiny"]
    command += ["--minutes", "0.16", "--threads", "1", "--out", tmp_path]
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    done = subprocess.run(
        [*map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (kept,) = tmp_path.glob("soak_*.txt")
    assert kept.read_text() in done.stdout
    rows = dict(re.findall(r"^(\S.*?) {2,}(.*)$", kept.read_text(), re.M))
    assert rows["bins sent on schedule, answered"] == "480, 480"
    assert rows["lost, duplicates, refused"] == "0, 0, 0"
    assert "1 thread on cores" in rows["on"]
    first, last = map(float, rows["resident MB, start and end"].split(", "))
    assert last - first < 2
    assert {p.pid for p in psutil.Process().children(recursive=True)} == before


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_a_million_bins_take_no_more_memory_than_the_first(tmp_path):
    address = f"unix:{tmp_path}/s"
    program = [sys.executable, PROJECT / "launch" / "decode.py", "--serve", address]
    program += ["--model", write_least_export(tmp_path / "e"), "--threads", "1"]
    program += ["--late-ms", "1e6"]
    counts = np.random.default_rng(0).poisson(0.4, (200, CHANNELS)).astype(np.uint8)
    with subprocess.Popen([*map(str, program)], stdout=subprocess.PIPE) as service:
        try:
            assert b"serving on" in service.stdout.readline()
            process, resident = psutil.Process(service.pid), []
            with Client(address, timeout_s=120) as client:
                for start in range(0, MILLION, len(counts)):
                    for of_bin in counts:
                        client.send(of_bin)
                    found = [client.receive() for _ in counts]
                    assert found[-1].sequence == start + len(counts) - 1
                    if start % (MILLION // 10) == 0:
                        resident.append(process.memory_info().rss)
                resident.append(process.memory_info().rss)
        finally:
            service.terminate()
            assert service.wait(60) == 0
    print([f"{r / 1e6:.1f}" for r in resident], os.getloadavg())
    assert resident[-1] - resident[1] < 2e6

"""A rank that is asked to stop ends in time, whatever its main thread waits for."""

import signal
import subprocess
import sys
import time

WAIT = """
import hashlib, os, sys
from ndt3_dist.train.stop import StopSignal
stop = StopSignal(within_s=0.5)
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"long", b"in C", 60_000_000)  # no signal handler runs meanwhile
print("done", stop.asked)
"""
IDLE = """
import os, resource, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2048), most))
many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1200)]  # beyond what select() can hold
from ndt3_dist.train.stop import StopSignal
stop = StopSignal(within_s=30)
print("ready", flush=True)
while not stop.asked:
    time.sleep(0.05)
print("asked", stop.asked)
stop.close()
"""


def start(program) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_rank_that_waits_in_c_ends_within_its_budget():
    process, began = start(WAIT), time.time()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: asked to stop (SIGTERM) and not done within 0.5 s" in said
    assert time.time() - began < 8


def test_ctrl_c_asks_and_a_second_one_ends_at_once():
    process, began = start(IDLE), time.time()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert said == "asked SIGINT\n"
    process = start(WAIT.replace("0.5", "60").replace("60_000_000", "2_000_000_000"))
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "error: asked to stop (SIGINT) and again; ends without" in said
    assert time.time() - began < 20


def test_a_rank_knows_what_it_was_asked_by():
    process = start(IDLE)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=30)
    assert said == "asked SIGUSR1\n"
    assert process.returncode == 0

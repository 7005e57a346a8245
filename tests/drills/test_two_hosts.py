"""Two hosts over ssh, a corpus on S3: one is killed, the run goes on with the other, then both."""

import shutil
import signal
import subprocess
import time

import pytest
from hosts import Hosts, missing
from namespaces import wait_until
from small_corpus import make_recording, write_corpus

from ndt3_dist.train.run_metrics import read_metrics

STEPS = 24


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if lacking := missing():
        pytest.skip(f"no two hosts on this machine: {lacking}")
    with Hosts(tmp_path_factory.mktemp("hosts")) as found:
        write_corpus(found.folder / "c", [make_recording(i, 40, [40, 20]) for i in (1, 2)])
        shutil.copytree(found.folder / "c", found.folder / "s3" / "bucket" / "c")
        yield found
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    assert not {*found.names} & {*listed.stdout.split()}


def losses(hosts, name) -> dict[int, float]:
    return {m["step"]: m["loss"] for m in read_metrics(hosts.folder / name)}


def finish(process, log, seconds=180) -> str:
    assert process.wait(timeout=seconds) == 0, log.read_text()
    return log.read_text()


@pytest.mark.drill
def test_a_host_that_dies_is_done_without_and_comes_back(hosts):
    extra = [f"train.max_steps={STEPS}"]
    text = finish(*hosts.launch("whole", 2, extra))
    assert "2 ranks on cpu" in text
    expected = losses(hosts, "whole")
    # The second host dies.
    process, log = hosts.launch("killed", 2, extra)
    wait_until(lambda: len(losses(hosts, "killed")) >= 6, 120, process)
    hosts.kill(1)
    died = time.time()
    assert process.wait(timeout=90) != 0
    took = time.time() - died
    assert "lost another rank" in log.read_text()
    hosts.sshd(1)
    # The first goes on alone and is asked to stop.
    process, log = hosts.launch("killed", 1, extra, resume="auto")
    wait_until(lambda: len(losses(hosts, "killed")) >= 14, 120, process)
    process.send_signal(signal.SIGTERM)  # ends the launcher; its rank sees that it is gone
    process.wait(timeout=10)
    deadline = time.time() + 60
    while hosts.ranks(0):
        assert time.time() < deadline
        time.sleep(0.1)
    assert "1 ranks on cpu" in log.read_text()
    reached = max(losses(hosts, "killed"))
    assert 14 <= reached < STEPS
    # Both again.
    text = finish(*hosts.launch("killed", 2, extra, resume="auto"))
    assert f"resuming from step {reached}" in text
    assert losses(hosts, "killed") == expected
    print(f"the other host had ended {took:.0f} s after the first")


@pytest.mark.drill
def test_zero_2_across_hosts_is_near(hosts):
    finish(*hosts.launch("two", 2, [f"train.max_steps={STEPS}", "train.zero_stage=2"]))
    expected = losses(hosts, "whole")
    for step, loss in losses(hosts, "two").items():
        assert loss == pytest.approx(expected[step], rel=1e-3)

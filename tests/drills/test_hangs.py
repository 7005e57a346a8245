"""Ranks that are slow, break, hang or stop, each in a launch of its own: who is named, and how."""

import re
import time

import pytest
from launching import launch, log_of, losses, ranks_of, wait_for_steps
from s3_server import S3
from slowed import EVERY, HOST, WINDOWS, Slowed, end_of_hang, named_within_two_windows, wait_for

from ndt3_dist.train.run_metrics import read_metrics

pytestmark = pytest.mark.drill


@pytest.fixture
def slowed(tmp_path, monkeypatch):
    return Slowed(tmp_path / "slow", monkeypatch)


def begin(folder, corpus, ranks, *extra):
    """A launch that has been healthy for two windows."""
    extra = [*WINDOWS, f"train.global_batch={2 * ranks}", *extra]
    process = launch(folder, corpus, ranks, extra, wait=False)
    wait_for_steps(process, folder, 2 * EVERY + 2)
    assert " slow" not in log_of(folder)
    return process


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_ranks_the_one_that_the_other_waits_for_is_named(
    corpus, tmp_path, slowed, stage, rank
):
    stage = [f"train.zero_stage={stage}", "train.precision=fp32"]
    process = begin(tmp_path, corpus, 2, *stage)
    for place, seconds in (("forward", 0.3), ("optimiser", 0.6), ("data", 1.0)):
        said = rf"warning: rank {rank} \(host {HOST}\) is slow at {place}: "
        named_within_two_windows(slowed, tmp_path, process, f"{place} {rank} {seconds}", said)
    assert len(re.findall("warning: .* slow at", log_of(tmp_path))) == 3
    measured = [m for m in read_metrics(tmp_path / "r") if "forward_s" in m]
    assert {m["forward_rank"] for m in measured if m["forward_s"] > 0.5} == {rank}
    ranks_of(process)[0].terminate()
    assert process.wait(timeout=60) == 0


def test_a_rank_that_breaks_is_named_by_its_own_error(corpus, tmp_path, slowed):
    process = begin(tmp_path, corpus, 3)
    slowed.tell("forward 1 raise")
    assert process.wait(timeout=60) != 0
    assert "error: rank 1: RuntimeError: broken on purpose" in log_of(tmp_path)


@pytest.mark.parametrize(("place", "rank"), [("data", 1), ("data", 0), ("forward", 2)])
def test_a_rank_that_hangs_is_named_and_all_end(corpus, tmp_path, slowed, place, rank):
    process = begin(tmp_path, corpus, 3, "train.hang_s=8")
    slowed.tell(f"{place} {rank} 1000")
    last = end_of_hang(process, tmp_path)
    why = rf"rank {rank} \(host {HOST}\) has not moved from: step \d+, {place}"
    assert re.match(rf"error: {why}; nothing has gone on for 8 s; ", last), log_of(tmp_path)
    texts = {f.name[16:25]: f.read_text() for f in (tmp_path / "r/faults").glob("*stacks.txt")}
    assert len(texts) == 3
    assert "in slowed" in texts[f"rank{rank:05d}"]


def test_a_first_rank_that_stands_still_is_named_by_the_second(corpus, tmp_path, slowed):
    process = begin(tmp_path, corpus, 3, "train.hang_s=12")
    ranks = ranks_of(process)
    stood = max(losses(tmp_path))
    ranks[0].suspend()
    log = wait_for("warning: rank 0 does not answer", tmp_path, process)
    ranks[0].resume()
    wait_for_steps(process, tmp_path, stood + EVERY)  # it was not for long: on it goes
    ranks[0].suspend()
    last = end_of_hang(process, tmp_path, ends_within_s=150)
    assert last.startswith(f"error: rank 0 (host {HOST}) does not answer ("), log


def test_the_launcher_kills_a_rank_that_stands_still(corpus, tmp_path, slowed):
    process = begin(tmp_path, corpus, 3, "train.hang_s=8")
    ranks_of(process)[2].suspend()
    end_of_hang(process, tmp_path, ends_within_s=150)


def test_a_job_that_is_suspended_for_longer_than_a_hang_goes_on(corpus, tmp_path, slowed):
    process = begin(tmp_path, corpus, 3, "train.hang_s=8")
    ranks, stood = ranks_of(process), max(losses(tmp_path))
    for rank in ranks:
        rank.suspend()
    time.sleep(20)
    for rank in ranks:
        rank.resume()
    wait_for_steps(process, tmp_path, stood + EVERY)
    ranks_of(process)[0].terminate()
    assert process.wait(timeout=60) == 0


def test_a_store_that_is_slow_for_one_rank_or_for_all(corpus, tmp_path, monkeypatch, store):
    """The second rank has another way to the same bucket."""
    other = S3(tmp_path / "s3")
    address = other.environment["AWS_ENDPOINT_URL"]
    also = f"\nif RANK == '1':\n    os.environ['AWS_ENDPOINT_URL'] = '{address}'\n"
    Slowed(tmp_path / "slow", monkeypatch, also)
    extra = [*WINDOWS, "run.dir=s3://lab"]
    process = launch(tmp_path, corpus, 2, extra, wait=False)
    wait_for(rf"step {2 * EVERY}/", tmp_path, process)
    other.lag_s = 1.5
    wait_for(rf"warning: rank 1 \(host {HOST}\) is slow at checkpoint", tmp_path, process)
    store.lag_s = 1.5
    wait_for("warning: all ranks are slow at checkpoint", tmp_path, process, 120)
    other.lag_s = store.lag_s = 0.0
    assert "rank 0 (host" not in log_of(tmp_path)
    ranks_of(process)[0].terminate()
    assert process.wait(timeout=60) == 0
    other.close()

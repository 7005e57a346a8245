"""Cores, threads and garbage of a process that is not to pause."""

import gc
import os
import weakref

import pytest
import torch

from ndt3_dist.errors import BadInput
from ndt3_dist.live import quiet


@pytest.fixture
def as_before():
    """This process as it was."""
    cores, threads, environment = os.sched_getaffinity(0), torch.get_num_threads(), {**os.environ}
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)


def test_a_process_stays_on_its_cores_with_its_threads(as_before, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    core = min(os.sched_getaffinity(0))
    quiet.pin(str(core), 1)
    assert os.sched_getaffinity(0) == {core}
    assert torch.get_num_threads() == 1
    assert os.environ["KMP_BLOCKTIME"] == "7"  # a user's own
    text = f"1 thread on cores {core}, spinning GOMP_SPINCOUNT={quiet.SPIN['GOMP_SPINCOUNT']}"
    assert quiet.described() == text


def test_cores_and_threads_that_are_not_there_are_refused(as_before):
    allowed = os.sched_getaffinity(0)
    assert quiet.parse_cores("") == allowed
    for text in ("a", "1,", "-1", "1.5"):
        with pytest.raises(BadInput, match="expected numbers of cores"):
            quiet.parse_cores(text)
    with pytest.raises(BadInput, match="--cores 9999: this process may use"):
        quiet.parse_cores("9999")
    for threads in (-1, len(allowed) + 1):
        with pytest.raises(BadInput, match=f"--threads {threads}: expected at most one for each"):
            quiet.pin("", threads)
    assert os.sched_getaffinity(0) == allowed


def test_garbage_is_collected_only_where_it_is_swept():
    class Ring:
        pass

    def leave():
        ring = Ring()
        ring.itself = ring
        return weakref.ref(ring)

    try:
        quiet.settle()
        left = leave()
        for _ in range(10_000):
            leave()
        assert left()  # no collection of its own
        quiet.sweep(0)
        quiet.sweep(quiet.SWEEP_EVERY - 1)
        assert left()
        quiet.sweep(2 * quiet.SWEEP_EVERY)
        assert left() is None
    finally:
        gc.unfreeze()
        gc.enable()

"""A store that fails is waited for: each try is said, with the time that is left, up to a limit."""

import random
import time

import pytest

from ndt3_dist import remote
from ndt3_dist.errors import BadInput, StoreFailed


class Clock:
    """Sleeps take no time; each call takes a second of it."""

    def __init__(self):
        self.now, self.calls, self.slept = 0.0, 0, []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def fail(self):
        self.calls += 1
        self.now += 1
        raise ConnectionError("refused")


@pytest.fixture
def clock(monkeypatch):
    mine = Clock()
    monkeypatch.setattr(time, "sleep", mine.sleep)
    monkeypatch.setattr(remote.time, "monotonic", lambda: mine.now)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    monkeypatch.delenv(remote.LIMIT, raising=False)
    return mine


def test_each_try_is_said_with_what_failed_and_the_time_left(clock, capsys):
    with pytest.raises(StoreFailed, match=r"cannot be read after 8 tries .*NDT3_STORE_WAIT_S="):
        remote.with_retries("s3://lab/a", "read", clock.fail)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "warning: s3://lab/a: cannot be read yet, ConnectionError: refused; again in 0 s "
        "(try 1 of 8, about 62 s left)"
    )
    assert said[-1].endswith("again in 30 s (try 7 of 8, about 30 s left)")
    assert (len(said), sum(clock.slept)) == (7, 61.5)


@pytest.mark.parametrize(("limit", "tries"), [(20, 6), (200, 13)])
def test_a_limit_takes_the_place_of_a_number_of_tries(clock, capsys, monkeypatch, limit, tries):
    monkeypatch.setenv("NDT3_STORE_WAIT_S", str(limit))
    with pytest.raises(StoreFailed):
        remote.with_retries("s3://lab/a", "read", clock.fail, attempts=2)
    assert clock.now - 1 == limit  # the last try begins when the time is over
    assert clock.calls == tries
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(f"again in 0 s (try 1, about {limit - 1} s left)")


def test_no_time_at_all_is_one_try(clock, monkeypatch):
    monkeypatch.setenv("NDT3_STORE_WAIT_S", "0")
    with pytest.raises(StoreFailed, match="after 1 tries"):
        remote.with_retries("s3://lab/a", "read", clock.fail)
    assert clock.slept == []


@pytest.mark.parametrize("limit", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_no_time_is_refused(clock, monkeypatch, limit):
    monkeypatch.setenv("NDT3_STORE_WAIT_S", limit)
    with pytest.raises(BadInput, match=f"NDT3_STORE_WAIT_S: '{limit}' is no time; expected"):
        remote.with_retries("s3://lab/a", "read", clock.fail)
    assert clock.calls == 0

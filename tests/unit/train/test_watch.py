"""Who is waited for, by pulse and place."""

import time

from ndt3_dist.train.watch import WAITS, Heartbeat, RankWatch, waited_for


def seen(pulse_since=100.0, place="step 3, reading", place_since=100.0):
    return Heartbeat("1", place, pulse_since, place_since)


def test_a_rank_without_a_pulse_is_named_before_one_that_is_slow():
    others = {1: seen(), 2: seen(pulse_since=60.0), 3: seen(place_since=60.0)}
    assert waited_for(others, 101.0, 20.0).startswith("rank 2 does not answer")


def test_a_rank_that_does_something_while_the_rest_waits_is_slow():
    waits = f"step 3, {WAITS}"
    others = {1: seen(place=waits, place_since=60.0), 2: seen(place_since=60.0)}
    assert waited_for(others, 101.0, 20.0) == "rank 2 is slow (step 3, reading)"


def test_a_long_step_of_all_ranks_is_nobodys_fault():
    others = {r: seen(place="step 3", place_since=60.0) for r in (1, 2, 3)}
    assert waited_for(others, 101.0, 20.0) == ""


class Store:
    def __init__(self):
        self.values = {"0": b"0|starts", "1": b"0|starts"}

    def set(self, key, value):
        self.values[key] = value.encode()

    def multi_get(self, keys):
        if "0" in keys:
            raise RuntimeError("timed out")
        return [self.values[k] for k in keys]


def test_the_second_rank_speaks_where_the_first_does_not_answer(capsys, monkeypatch):
    monkeypatch.setattr("ndt3_dist.train.watch.BEAT_S", 0.01)
    watch = RankWatch(1, 3, 60.0, Store())
    deadline = time.monotonic() + 10
    while "rank 0 does not answer; the others wait" not in (text := capsys.readouterr().err):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)
    watch.close()
    assert RankWatch(2, 3, 60.0, Store()).watched == []

"""Where time goes, and who is slow."""

import numpy as np
import torch

from ndt3_dist.engines import phases as phases_module
from ndt3_dist.engines.phases import (
    BACKWARD,
    CHECKPOINT,
    COMMUNICATION,
    DATA,
    FORWARD,
    OTHER,
    PHASES,
    Phases,
    SlowRanks,
    phase_metrics,
    slow_at,
)


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


def seconds(**of_phases):
    """(ranks, phases) of a window; phases that are not named take nothing."""
    ranks = len(next(iter(of_phases.values())))
    return np.array([of_phases.get(phase, [0.0] * ranks) for phase in PHASES]).T


def healthy(ranks=4):
    return seconds(data=[0.1] * ranks, forward=[3.0] * ranks, backward=[6.0] * ranks)


def test_each_moment_lies_in_one_phase(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(phases_module, "time", clock)
    phases = Phases()

    class Work:
        def wait(self):
            clock.now += 2
            return "done"

    def begin():
        clock.now += 1
        return Work()

    clock.now += 0.5
    with phases.at(BACKWARD):
        clock.now += 4
        work = phases.timed(COMMUNICATION, begin)()
        clock.now += 8
        assert work.wait() == "done"
        assert phases.now == BACKWARD
    found = dict(zip(PHASES, phases.take(), strict=True))
    assert found == dict.fromkeys(PHASES, 0.0) | {BACKWARD: 12, COMMUNICATION: 3, OTHER: 0.5}
    assert phases.take().sum() == 0


def test_a_gpus_phases_lie_between_marks_that_are_not_waited_for(monkeypatch):
    """Events that stand in for CUDA's; the device is behind the host, and its stream idles once."""
    device = {"reached": 0.0, "events": 0}

    class Event:
        def __init__(self, enable_timing):
            device["events"] += 1

        def record(self, stream):
            assert stream == "compute"
            self.at = device["next"]

        def query(self):
            return self.at <= device["reached"]

        def elapsed_time(self, later):
            assert later.at <= device["reached"]
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "compute")
    device["next"] = 0.0
    phases = Phases("cuda:0")

    def window(start):
        device["next"] = start + 1000
        before = phases.switch(FORWARD)
        device["next"] = start + 4000
        phases.switch(before)

    window(0.0)
    device["reached"] = 3999.0
    assert dict(zip(PHASES, phases.take(), strict=True))[FORWARD] == 0  # its end is not there yet
    device["reached"] = device["next"] = 5000.0
    found = dict(zip(PHASES, phases.take(), strict=True))
    assert (found[FORWARD], found[OTHER]) == (3.0, 1.0)
    made = device["events"]
    window(5000.0)
    device["reached"] = 9000.0
    assert dict(zip(PHASES, phases.take(), strict=True))[FORWARD] == 3.0
    assert device["events"] == made  # marks are used again


def test_the_rank_that_others_wait_for_is_slow_and_not_those_that_wait():
    window = healthy()
    window[2, PHASES.index(DATA)] = 8.0
    assert slow_at(window, DATA) == set()  # nobody waits: it worked ahead
    window[[0, 1, 3], PHASES.index(COMMUNICATION)] = 7.9
    assert slow_at(window, DATA) == {2}
    assert slow_at(window, FORWARD) == set()
    # Of two, the one for which the other waits, also where that one waits in its own backward pass.
    two = seconds(forward=[5.0, 2.0], backward=[3.0, 3.0], communication=[0.0, 3.0])
    assert slow_at(two, FORWARD) == {0}
    assert slow_at(seconds(forward=[5.0, 2.0], backward=[3.0, 6.0]), FORWARD) == set()


def test_healthy_noise_has_no_line():
    rng = np.random.default_rng(0)
    slow = SlowRanks(["a"] * 8)
    for _ in range(200):
        window = healthy(8) * rng.uniform(0.8, 1.2, (8, len(PHASES)))
        total = window.sum(axis=1)
        window[:, PHASES.index(COMMUNICATION)] = total.max() - total
        assert slow.lines(window, 10) == []
    hiccup = healthy(8)
    hiccup[3, PHASES.index(FORWARD)] += 60
    hiccup[:, PHASES.index(COMMUNICATION)] = [60, 60, 60, 0, 60, 60, 60, 60]
    assert slow.lines(hiccup, 10) == []  # once is nothing
    assert slow.lines(healthy(8), 10) == []
    tiny = healthy() / 1000  # a rank three times as slow, by a millisecond
    tiny[1, PHASES.index(FORWARD)] *= 3
    tiny[[0, 2, 3], PHASES.index(COMMUNICATION)] = 0.006
    assert slow_at(tiny, FORWARD) == set()


def test_a_rank_is_named_once_after_two_windows_and_once_more_when_it_is_over():
    slow, window = SlowRanks(["gpu04", "gpu05", "gpu06", "gpu07"]), healthy()
    window[3, PHASES.index(DATA)] = 21.0
    window[:3, PHASES.index(COMMUNICATION)] = 20.9
    said = [slow.lines(window, 10) for _ in range(3)]
    line = "warning: rank 3 (host gpu07) is slow at data: 2.1 s of each step, the others 0.01 s"
    assert said == [[], [line], []]
    said = [slow.lines(healthy(), 10) for _ in range(3)]
    assert said == [[], ["rank 3 (host gpu07) is no longer slow at data"], []]


def test_windows_without_a_checkpoint_say_nothing_of_the_next_one():
    slow, save = SlowRanks(["a", "b"]), healthy(2)
    save[:, PHASES.index(CHECKPOINT)] = 10.0, 1.0
    save[:, PHASES.index(COMMUNICATION)] = 0.0, 9.0
    assert slow.lines(save, 10) == []
    assert [slow.lines(healthy(2), 10) for _ in range(5)] == [[]] * 5
    assert len(slow.lines(save, 10)) == 1


def test_a_disk_that_is_slow_for_all_is_nobodys_fault():
    slow, save = SlowRanks(["a", "b", "c"]), healthy(3)
    save[:, PHASES.index(CHECKPOINT)] = 30.0, 28.0, 29.0
    slow.lines(save, 10)
    line = "warning: all ranks are slow at checkpoint: 2.9 s of each step, 76% of the time"
    assert slow.lines(save, 10) == [line]
    alone = SlowRanks(["a"])
    assert alone.lines(save[:1], 10) + alone.lines(save[:1], 10) == [
        "warning: rank 0 (host a) is slow at checkpoint: 3.0 s of each step, 77% of the time"
    ]


def test_metrics_have_the_most_of_any_rank_and_which():
    window = healthy(3)
    window[1, PHASES.index(DATA)] = 5.0
    found = phase_metrics(window, 10)
    assert (found["data_s"], found["data_rank"], found["forward_s"]) == (0.5, 1, 0.3)

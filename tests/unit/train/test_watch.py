"""Who is waited for, by pulse and place; what is said of a job that hangs, and written."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from ndt3_dist.engines.phases import COMMUNICATION, FORWARD, Phases
from ndt3_dist.train import watch as watch_module
from ndt3_dist.train.faults import keep_stacks
from ndt3_dist.train.watch import WAITS, Heartbeat, RankWatch, hang_line, waited_for

HOSTS = "gpu04", "gpu05", "gpu06"


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
    watch = RankWatch(1, HOSTS, Phases(), Store(), 60.0)
    deadline = time.monotonic() + 10
    while "rank 0 does not answer; the others wait" not in (text := capsys.readouterr().err):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)
    watch.close()
    assert RankWatch(2, HOSTS, Phases(), Store(), 60.0).watched == []


def stuck(doing="step 3, data", pulse_since=100.0, moves_since=40.0):
    return Heartbeat("1", doing, pulse_since, moves_since, "7", moves_since)


def test_phases_of_a_step_are_one_thing_and_waiting_is_another():
    seen = Heartbeat()
    for now, doing in enumerate(("step 3, data", "step 3, forward", f"step 3, {WAITS}", "step 4")):
        seen.take(f"{now}|{now}|{doing}", now)
        assert (seen.pulse_since, seen.moves_since) == (now, now) or now == 0
        assert seen.doing_since == (0, 0, 2, 3)[now]


def test_a_hang_is_told_by_who_is_silent_or_has_not_moved_and_where():
    waits = stuck(f"step 3, {WAITS}")
    over = "; nothing has gone on for 60 s"
    seen = {0: waits, 1: waits, 2: stuck()}
    line = "rank 2 (host gpu06) has not moved from: step 3, data"
    assert hang_line(seen, HOSTS, 101.0, 60.0) == line + over
    seen = {0: stuck(), 1: stuck(), 2: waits}
    line = "rank 0 (host gpu04) has not moved from: step 3, data (also rank 1)"
    assert hang_line(seen, HOSTS, 101.0, 60.0) == line + over
    seen = {0: waits, 1: stuck(pulse_since=41.0), 2: stuck()}
    assert hang_line(seen, HOSTS, 101.0, 60.0).startswith("rank 1 (host gpu05) does not answer (")
    seen = dict.fromkeys(range(3), waits)
    none = "nothing has gone on for 60 s, and no rank is behind: step 3, waits for the others"
    assert hang_line(seen, HOSTS, 101.0, 60.0) == none


@pytest.fixture
def ended(monkeypatch):
    """Watches that beat fast, and do not end this process: `(exit codes, lines said)`."""
    codes, lines = [], []

    def leave(code):
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr(watch_module, "BEAT_S", 0.01)
    monkeypatch.setattr(watch_module, "WRITE_S", 5.0)
    monkeypatch.setattr(watch_module, "os", SimpleNamespace(_exit=leave))
    monkeypatch.setattr(watch_module, "say", lines.append)
    monkeypatch.setattr(watch_module, "end_launcher", lambda: lines.append("launcher"))
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    return codes, lines


def test_all_ranks_of_a_job_that_hangs_write_where_they_are_and_end(tmp_path, ended):
    store, clocks = HashStore(), [Phases() for _ in HOSTS]
    for key, value in (("verdict", ""), ("said", ""), *((str(r), "0|0|starts") for r in range(3))):
        store.set(key, value)
    clocks[0].switch(COMMUNICATION)
    clocks[1].switch(COMMUNICATION)
    clocks[2].switch(FORWARD)
    watches = [
        RankWatch(r, HOSTS, clocks[r], store, 60.0, hang_s=0.5, folder=str(tmp_path))
        for r in range(3)
    ]
    for watch in watches:
        watch.doing = "step 9"
    for watch in watches:
        watch._watching.join(20)
    codes, lines = ended
    assert codes == [1, 1, 1]
    why = "rank 2 (host gpu06) has not moved from: step 9, forward; nothing has gone on for 0.5 s"
    where = f"where the threads of all ranks are: {tmp_path}/faults"
    assert lines == [f"error: {why}; {where}", "launcher"]
    assert len(list((tmp_path / "faults").glob("*-stacks.txt"))) == 3


def test_a_rank_that_moves_within_a_phase_does_not_hang(ended):
    store, clock = HashStore(), Phases()
    store.set("verdict", "")
    watch = RankWatch(0, HOSTS[:1], clock, store, 60.0, hang_s=0.3)
    for _ in range(40):
        time.sleep(0.02)
        clock.moved()
    watch.close()
    assert ended == ([], [])


def test_a_job_that_was_suspended_as_a_whole_goes_on(ended, monkeypatch):
    """The clock has jumped by an hour when the scheduler lets it run again."""
    store, jump = HashStore(), [0.0]
    true = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: true() + jump[0], sleep=time.sleep)
    monkeypatch.setattr(watch_module, "time", clock)
    store.set("verdict", "")
    watch = RankWatch(0, HOSTS[:1], Phases(), store, 60.0, hang_s=2.0)
    time.sleep(0.1)
    jump[0] = 3600.0
    time.sleep(0.5)
    watch.close()
    assert ended == ([], [])


def test_stacks_have_each_thread_by_name_and_collectives_what_torch_recorded(tmp_path):
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    go_on = threading.Event()

    def waits_here():
        go_on.wait()

    thread = threading.Thread(target=waits_here, name="reads", daemon=True)
    thread.start()
    try:
        dist.all_reduce(torch.ones(3))
        keep_stacks(tmp_path, 4, "why it is")
    finally:
        go_on.set()
        dist.destroy_process_group()
    stacks, recorded = sorted((tmp_path / "faults").iterdir(), reverse=True)
    text = stacks.read_text()
    assert stacks.name.endswith("-rank00004-stacks.txt")
    assert text.startswith("why it is\n")
    assert "thread reads:" in text
    assert "in waits_here" in text
    assert "thread MainThread:" in text
    assert json.loads(recorded.read_text())["entries"][-1]["profiling_name"] == "gloo:all_reduce"

"""`ndt3 watch` and the board on runs as trainings write them: on a disk, in a store, resumed."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from ndt3_dist import storage
from ndt3_dist.cluster.board.answers import Answers
from ndt3_dist.cluster.board.collection import Collection
from ndt3_dist.config import PROJECT
from ndt3_dist.pages import followed_run
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.train.run_metrics import MetricsFile

WATCH = [sys.executable, PROJECT / "launch" / "watch.py"]
CONFIG = "train: {max_steps: 400}\nlog: {every_steps: 50}\n"


def begin(run: str) -> str:
    """A run with settings and no step."""
    storage.write_bytes(storage.join(run, "config.yaml"), CONFIG.encode())
    return run


def steps(file: MetricsFile, *between: int, loss: float = 1.0) -> None:
    """Steps as a training writes them."""
    for step in range(*between):
        values = {"loss": loss, "grad_norm": 1.0, "lr": 1e-4, "tokens": 1000, "step_s": 0.5 + loss}
        file.write(step, {**values, "wait_s": 0.1, "memory_gb": 1.0})
    file.flush()


class Watched:
    """A process whose lines are waited for."""

    def __init__(self, *arguments, **environment: str):
        self.process = subprocess.Popen(
            [*WATCH, *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        assert self.process.stdout
        self.out, self.text = self.process.stdout.fileno(), ""

    def until(self, what: str, seconds: float = 40) -> None:
        ends = time.monotonic() + seconds
        while what not in self.text:
            assert time.monotonic() < ends, f"never {what!r}: {self.text}"
            if select.select([self.out], [], [], 0.5)[0]:
                piece = os.read(self.out, 1 << 16)
                assert piece, self.text
                self.text += piece.decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture(params=["disk", "store"])
def run(request, tmp_path) -> str:
    if request.param == "store":
        request.getfixturevalue("store")
        return begin("s3://lab/runs/big")
    return begin(str(tmp_path / "runs" / "big"))


def test_lines_follow_a_run_over_its_resume_and_end_with_ctrl_c(run):
    first = MetricsFile(run, 0, [])
    steps(first, 1, 101)
    watched = Watched(run, "--lines", "--every-s", "0.2")
    watched.until("step 100/400  loss 1.0000")
    steps(first, 101, 251)
    watched.until("step 250/400  loss 1.0000")
    first.close()
    second = MetricsFile(run, 120, [])  # cuts what is behind step 120
    steps(second, 121, 201, loss=2.0)
    watched.until("back behind step 120: what followed is run again")
    watched.until("step 200/400  loss 2.0000")
    second.close()
    assert watched.end() == 0
    told = [line.split("  ")[0] for line in watched.text.splitlines() if line.startswith("step ")]
    assert told == [f"step {n}/400" for n in (50, 100, 150, 200, 250, 150, 200)]


def test_a_look_at_a_store_costs_a_head_and_what_is_new(store, monkeypatch):
    run = begin("s3://lab/runs/big")
    file = MetricsFile(run, 0, [])
    steps(file, 1, 3001)
    followed = FollowedRun(run)
    followed.update()
    assert followed.step == 3000
    monkeypatch.setattr(followed_run, "AROUND_S", {True: 1e9, False: 1e9})
    store.asked.clear()
    store.gets.clear()
    assert not followed.update()
    assert [method for method, _ in store.asked] == ["HEAD"]
    steps(file, 3001, 3004)
    store.asked.clear()
    assert followed.update()
    assert followed.step == 3003
    assert [method for method, _ in store.asked] == ["HEAD", "GET"]
    assert sum(sent for _, sent in store.gets) < 1500
    file.close()


def test_a_store_that_is_away_is_a_line_until_it_is_back(store, monkeypatch):
    run = begin("s3://lab/runs/big")
    file = MetricsFile(run, 0, [])
    steps(file, 1, 11)
    monkeypatch.setattr(followed_run, "AROUND_S", {True: -1.0, False: -1.0})
    monkeypatch.setattr("ndt3_dist.remote.time.sleep", lambda seconds: None)
    followed = FollowedRun(run)
    followed.update()
    assert (followed.step, followed.problem) == (10, "")
    store.faults.append(["HEAD", "metrics.jsonl", "403", 1])
    followed.update()
    assert followed.problem == "metrics.jsonl: Forbidden"
    steps(file, 11, 21)
    followed.update()
    assert (followed.step, followed.problem) == (20, "")
    file.close()


def test_a_board_of_a_store(store):
    for name in ("a", "b"):
        file = MetricsFile(begin(f"s3://lab/runs/{name}"), 0, [])
        steps(file, 1, 101)
        file.close()
    save = storage.join("s3://lab/runs/a", "steps", "00000100", "checkpoint.json")
    storage.write_bytes(save, b"{}")
    runs = Collection(["s3://lab/runs"])
    runs.look()
    cards = runs.listed(sort="name")
    assert [(card.name, card.step, card.state) for card in cards] == [
        ("a", 100, "stopped"),
        ("b", 100, "stopped"),
    ]
    assert runs.listed("train.max_steps=400 b") == [cards[1]]
    found = Answers(runs).view({"runs": ",".join(card.id for card in cards)})
    assert found
    assert found["parts"]["charts"].count("<figure") == 6
    assert "save" in found["parts"]["events"]
    assert len(Collection(["s3://lab/ru*"])._paths) == 2


def test_a_reader_that_leaves_ends_it(tmp_path):
    file = MetricsFile(begin(str(tmp_path / "r")), 0, [])
    steps(file, 1, 101)
    watched = Watched(str(tmp_path / "r"), "--lines")
    watched.until("step 100/400")
    watched.process.stdout.close()
    assert watched.process.wait(20) == 0
    file.close()


def test_what_is_no_run_is_one_line(tmp_path):
    (tmp_path / "x").mkdir()
    done = subprocess.run([*WATCH, tmp_path / "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no run (nothing is there); expected the folder of one" in done.stderr


def test_a_terminal_is_drawn_and_given_back(tmp_path):
    run = begin(str(tmp_path / "big"))
    file = MetricsFile(run, 0, [])
    steps(file, 1, 101)
    (tmp_path / "big" / "lease.json").write_text(json.dumps({"id": "x"}))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [*WATCH, run, "--every-s", "0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    seen, ends, grown = "", time.monotonic() + 40, False
    while "150 of 400" not in seen and time.monotonic() < ends:
        if select.select([ours], [], [], 0.2)[0]:
            seen += os.read(ours, 1 << 16).decode(errors="replace")
        if "100 of 400" in seen and not grown:
            steps(file, 101, 151)
            grown = True
    process.send_signal(signal.SIGINT)
    while select.select([ours], [], [], 5)[0]:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        seen += piece.decode(errors="replace")
        if not piece:
            break
    assert process.wait(20) == 0
    os.close(ours)
    file.close()
    assert "live" in seen
    assert "150 of 400" in seen
    assert "\u2581" in seen or "\u2585" in seen
    assert "Traceback" not in seen
    assert seen.rindex("\x1b[?1049l") > seen.rindex("\x1b[?1049h")  # the screen that was there
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # and its cursor

"""A program that takes long says so: a bar on a terminal, elsewhere a line after each silence."""

import io
import os
import pty
import subprocess
import sys
import termios
import threading

import pytest

from ndt3_dist import log, voice
from ndt3_dist.voice import Step, Voice


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def spoken(monkeypatch):
    """The process's voice with a clock that a test moves, and what it says."""
    time = [100.0]
    mine = Voice(lambda: time[0])
    monkeypatch.setattr(log, "VOICE", mine)
    monkeypatch.setattr(voice, "FIRST_S", 2.0)

    def after(seconds: float) -> None:
        time[0] += seconds
        mine.tell()

    return after


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (99, "99 s"), (99.6, "2 min"), (5900, "98 min"), (9000, "2.5 h")],
)
def test_a_time_is_told_in_its_unit(seconds, told):
    assert voice.duration(seconds) == told


def test_what_cannot_be_counted_is_said_after_two_seconds_and_then_every_ten(spoken, capsys):
    with log.waiting("building https://me:pass@host/op"):
        spoken(1.9)
        assert capsys.readouterr().err == ""
        spoken(0.1)
        assert capsys.readouterr().err == "building https://host/op: 2 s so far\n"
        spoken(9.9)
        assert capsys.readouterr().err == ""
        spoken(0.1)
        assert capsys.readouterr() == ("", "building https://host/op: 12 s so far\n")
    spoken(100)
    assert capsys.readouterr().err == ""


def test_items_are_counted_with_the_time_that_is_left(spoken, capsys):
    for number, _ in enumerate(log.progress(list("abcdefghi"), "evaluate")):
        spoken(10)
        said = capsys.readouterr().err
        if number == 0:
            assert said == "evaluate: 0 of 9 after 10 s\n"
        if number == 3:
            assert said == "evaluate: 3 of 9, 80 s left\n"
    spoken(100)
    assert capsys.readouterr().err == ""


def test_items_of_a_number_that_nobody_knows_are_counted_too(spoken, capsys):
    assert list(log.progress((spoken(10) for _ in range(2)), "shards")) == [None, None]
    assert capsys.readouterr().err == "shards: 10 s so far\nshards: 1 after 20 s\n"


def test_bytes_are_told_in_megabytes_and_work_of_before_takes_no_time(spoken, capsys):
    with log.counting("model.safetensors", 400_000_000, 100_000_000, "B") as step:
        step.add(100_000_000)
        step.more = "1 failed"
        spoken(20)
    said = capsys.readouterr().err
    assert said == "model.safetensors: 200 of 400 MB, 40 s left, 1 failed\n"


def test_other_lines_make_it_wait(spoken, capsys):
    with log.waiting("training"):
        for _ in range(10):
            spoken(1.5)
            log.say("step")
    assert capsys.readouterr().err == ""


def test_steps_within_each_other_share_a_line_and_the_silence(spoken, capsys):
    with log.counting("evaluating", 3) as outer:
        spoken(2)
        outer.add()
        for _ in range(5):
            with log.waiting("loading"):  # each too short to be told of
                spoken(1.9)
        with log.counting("decoding", 900, unit="bins"):
            spoken(2)
    assert capsys.readouterr().err.splitlines() == [
        "evaluating: 0 of 3 after 2 s",
        "evaluating: 1 of 3, 27 s left; decoding: 0 of 900 bins after 2 s",
    ]


def test_only_the_first_rank_and_its_main_thread_speak(spoken, capsys, monkeypatch):
    def wait():
        with log.waiting("reading"):
            spoken(20)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    monkeypatch.setenv("RANK", "1")
    wait()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    wait()
    assert capsys.readouterr().err == "reading: 20 s so far\n"


def test_an_error_ends_a_step(spoken, capsys):
    with pytest.raises(ValueError, match="broken"), log.waiting("reading"):
        raise ValueError("broken")
    for _ in log.progress(range(3), "shards"):
        break
    spoken(20)
    assert capsys.readouterr().err == ""


def test_what_is_redirected_meanwhile_is_not_where_it_speaks(spoken, capsys, monkeypatch):
    with log.waiting("building"), monkeypatch.context() as aside:
        aside.setattr(sys, "stderr", io.StringIO())
        spoken(3)
    assert capsys.readouterr().err == "building: 3 s so far\n"


def test_a_terminal_has_bars_and_lines_above_them(spoken, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with log.counting("evaluating", 3) as step, log.waiting("loading"):
        step.add()
        log.note("a line")
        before = terminal.tell()
        spoken(1)
        assert terminal.tell() > before  # a bar that does not move is drawn again
    text = terminal.getvalue()
    assert "evaluating:  33%" in text
    assert "loading: 00:00" in text
    assert "\r\x1b[Aa line\n" in text  # the bars were cleared before it
    assert "so far" not in text


def test_a_fork_speaks_for_itself_alone(capfd):
    step = Step("of the parent")
    voice.VOICE.begin(step)
    try:
        if not (child := os.fork()):
            os._exit(len(voice.VOICE.steps))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        voice.VOICE.end(step)


def test_a_thread_speaks_while_a_program_is_busy():
    code = (
        "import time\nfrom ndt3_dist import log, voice\nvoice.FIRST_S = voice.POLL_S = 0.01\n"
        "with log.waiting('busy'):\n    time.sleep(0.3)\nlog.say('over')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("over\n", "busy: 0 s so far\n")


@pytest.mark.parametrize(("size", "said"), [((24, 80), "busy: 00:00"), ((0, 0), "busy: 0 s so")])
def test_a_terminal_without_a_size_has_lines_for_bars(size, said):
    code = (
        "import time\nfrom ndt3_dist import log, voice\nvoice.FIRST_S = voice.POLL_S = 0.01\n"
        "with log.waiting('busy'):\n    time.sleep(0.3)"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60)
    os.close(theirs)  # so that nobody waits where nothing was said
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said in text
    assert ("so far" in text) == (size == (0, 0))

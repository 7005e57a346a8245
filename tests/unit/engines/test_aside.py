"""What DeepSpeed prints as it begins goes aside, and what it says later does not."""

import io
import logging
import subprocess
import sys

import pytest

from ndt3_dist.engines import aside as module
from ndt3_dist.engines.aside import aside, keep_said

LATER = """
import logging
from ndt3_dist.engines.engine import start_distributed
start_distributed()
logging.getLogger("DeepSpeed").warning("said in a step")
"""


@pytest.fixture(autouse=True)
def said(monkeypatch):
    monkeypatch.setattr(module, "SAID", io.StringIO())


def test_prints_and_the_log_go_aside_while_the_block_lasts(tmp_path, capsys, monkeypatch):
    log, stream = logging.getLogger("DeepSpeed"), io.StringIO()
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(stream)])
    with aside():
        print("one")
        log.warning("two")
    log.warning("three")
    assert (capsys.readouterr().out, stream.getvalue()) == ("", "three\n")
    keep_said(str(tmp_path / "r" / "rank.txt"))
    assert (tmp_path / "r" / "rank.txt").read_text() == "one\ntwo\n"


def test_an_error_shows_what_was_printed_before_it(capsys):
    with aside():
        print("of before")

    def fail():
        print("reason")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), aside():
        fail()
    assert capsys.readouterr().err == "reason\n"
    with aside(shown=True):
        print("shown")
    assert capsys.readouterr().out == "shown\n"


def test_what_deepspeed_logs_after_the_start_is_seen():
    """Whoever is imported while prints go aside would write there for ever."""
    done = subprocess.run(
        [sys.executable, "-c", LATER], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "said in a step" in done.stdout

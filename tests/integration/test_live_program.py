"""decode.py --serve as a process: the client of the page, signals, numbers, refusals."""

import json
import os
import re
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
from live_parts import CHANNELS, write_least_export

import ndt3_dist
from ndt3_dist.config import PROJECT
from ndt3_dist.errors import BadInput
from ndt3_dist.live.client import Client
from ndt3_dist.programs import decode

BLOCKS = re.compile(r"```python\n(.*?)```", re.S)
START = """
import runpy, sys
sys.modules["sympy"] = None  # which takes a second, and is not needed
sys.argv[0] = PROGRAM
runpy.run_path(PROGRAM, run_name="__main__")
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_least_export(tmp_path_factory.mktemp("live") / "export")


def line(stream, pattern):
    """The first line that has the pattern; all that came before is lost."""
    said = b""
    while not (found := re.search(pattern.encode() + rb".*\n", said)):
        assert select.select([stream], [], [], 120)[0], f"no more in two minutes: {said}"
        piece = os.read(stream.fileno(), 4096)
        assert piece, said
        said += piece
    return found[0].decode()


def test_the_client_of_the_page_signals_and_numbers(export, tmp_path):
    address, stats = f"unix:{tmp_path}/s", tmp_path / "stats.json"
    core = min(os.sched_getaffinity(0))
    code = START.replace("PROGRAM", repr(str(PROJECT / "launch" / "decode.py")))
    command = [sys.executable, "-c", code, "--model", export, "--serve", address]
    command += ["--stats", stats, "--cores", core, "--threads", 1, "--late-ms", 1e6]
    pipe = subprocess.PIPE
    with subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe) as process:
        try:
            where = f"1 thread on cores {core}, spinning GOMP_SPINCOUNT="
            assert where in line(process.stderr, "20 bins of 20 ms of context, cached")
            said = line(process.stdout, f"serving on {address}")
            assert "late after 1e+06 ms, its fall-back is hold" in said

            page = (PROJECT / "docs" / "live.md").read_text()
            code = next(b for b in BLOCKS.findall(page) if "struct.Struct" in b)
            assert "ndt3_dist" not in code
            (tmp_path / "client.py").write_text(code)
            done = subprocess.run(
                [sys.executable, "-S", tmp_path / "client.py", tmp_path / "s"],
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            silent = np.zeros(CHANNELS, np.uint8)
            decoder = ndt3_dist.open_decoder(export)
            lines = [re.fullmatch(r"(\d) \d .* ms \((.*)\)", t) for t in done.stdout.splitlines()]
            assert [found[1] for found in lines] == ["0", "1", "2", "3", "4"]
            expected = np.stack([decoder.step(silent) for _ in range(5)])
            found = [[float(v) for v in found[2].split(",")] for found in lines]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

            with Client(address) as client:
                assert (client.about["context"], client.about["units"]) == (20, ["cm/s"] * 2)
                np.testing.assert_allclose(
                    client.step(silent).covariates, expected[0], rtol=1e-4, atol=1e-4
                )
                process.send_signal(signal.SIGUSR1)
                assert "6 bins of 20 ms (0 observed); ms per bin: p50" in line(
                    process.stderr, "6 bins"
                )
                assert json.loads(stats.read_text())["bins"] == 6
                client.step(silent)
                process.send_signal(signal.SIGTERM)
                assert process.wait(120) == 0
        finally:
            process.kill()
    told = json.loads(stats.read_text())
    assert (told["bins"], told["clients"], told["bin_ms"]) == (7, 2, 20.0)
    assert sum(n for _, n in told["took_ms"]["histogram"]) == 7
    assert not os.path.exists(tmp_path / "s")


WRONG = [
    (["--serve", "tcp://0.0.0.0:5000"], "0.0.0.0 can be reached from other machines"),
    (["--serve", "here"], "expected unix:PATH or tcp://127.0.0.1:PORT"),
    (["--serve", "unix:s", "--fallback", "hold", "--decay-ms", "-1"], "--decay-ms -1"),
    (["--serve", "unix:s", "--recompute"], "a service keeps"),
    (["--serve", "unix:s", "--lsl-out", "x"], "--lsl-out goes with --lsl-in"),
    (["--serve", "unix:s", "--cores", "x"], "--cores x: expected numbers of cores"),
    (["--serve", "unix:s", "--stats", "s3://lab/f"], "expected a file in a local folder"),
    (["--serve", "unix:s", "--threads", "99"], "expected at most one for each of"),
    (["--lsl-in", "x"], "without --lsl-out NAME"),
    (["--stdin", "--late-ms", "50"], "--late-ms goes with --serve or --lsl-in"),
    (["--stdin", "--stats", "f"], "--stats goes with --serve or --lsl-in"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(
    options, message, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["decode.py", "--model", "there-is-none", *options])
    with pytest.raises(BadInput, match=re.escape(message)):
        decode.main()

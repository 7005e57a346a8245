"""decode.py: recordings and streams to predictions in raw units; bad input is named."""

import io
import json
import os
import runpy
import select
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forks import run_program
from refusals import refused

from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.config import PROJECT, find_file
from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.online import OnlineDecoder, parse_bins, read_units
from ndt3_dist.model.load import load_model
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.prep.recipe import load_recipe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.shards.npy import parse_npy
from ndt3_dist.simulate.sessions import simulate

CONTEXT = 20


def write_small_export(folder, config, sessions: dict[str, list]):
    torch.manual_seed(0)
    weights = {n: p.detach() for n, p in NDT3(config).named_parameters()}
    trained = {"run": "r", "step": 1, "epochs": 0.5, "corpus": "c" * 64}
    norms = {
        "bin_size_ms": 20.0,
        "window_bins": CONTEXT,
        "sessions": {s: {"covariates": c} for s, c in sessions.items()},
    }
    write_export(folder, weights, describe_export(config, weights, "fp32", trained), norms)
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A simulated recording, its counts by way of a corpus, and its manifest entry."""
    folder = tmp_path_factory.mktemp("recorded")
    simulate(folder / "nwb", sessions=1, minutes=0.25, seed=3)
    path = next((folder / "nwb").rglob("*.nwb"))
    recipe = load_recipe(
        find_file("one_recording.yaml", "data_prep/recipes"),
        ["splits=[{intervals: {calibration: [0, 0.4], test: [0.4, 1]}}]", "window_ms=1000"],
    )
    session, samples = cut(read_nwb(path, recipe), recipe, "a.nwb", "0" * 64)
    spikes = np.concatenate([parse_npy(members["spikes"], "s") for _, _, members, _ in samples])
    assert len(spikes) == session.bins
    return path, session, spikes


@pytest.fixture(scope="module")
def export(recorded, tmp_path_factory):
    from ndt3_dist.model.model_config import ModelConfig

    config = ModelConfig(layers=2, dim=64, heads=2, feedforward=64)
    covariates = [c.model_dump() for c in recorded[1].covariates]
    folder = tmp_path_factory.mktemp("export") / "e"
    return write_small_export(folder, config, {recorded[1].id: covariates})


PROGRAM = str(PROJECT / "launch" / "decode.py")


@pytest.fixture
def run(monkeypatch, capsys):
    """Piece the program in this process: arguments and standard input to exit code and outputs."""

    def run(*arguments, given="", program=PROGRAM):
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        with pytest.raises(SystemExit) as e:
            runpy.run_path(program, run_name="__main__")
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=e.value.code, stdout=out, stderr=err)

    return run


@pytest.fixture
def stream(export):
    """The program as a process of its own, reading bins."""
    command = [sys.executable, PROGRAM, "--model", str(export), "--stdin"]
    # Python must not be told to leave its output unbuffered: lines have to leave by themselves.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, text=True, env=env, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        yield process
        process.kill()


def lines_of(counts) -> str:
    return "".join(" ".join(map(str, c)) + "\n" for c in counts.tolist())


def test_a_recording_decodes_as_evaluation_does_in_raw_units(run, recorded, export, tmp_path):
    path, session, spikes = recorded
    out = tmp_path / "p.npy"
    done = run("--model", export, "--recording", path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{len(spikes)} bins of 20 ms; ms per bin: p50" in done.stderr
    assert done.stderr.startswith(f"decode {path} with {export}\n")  # before torch is loaded
    assert done.stdout == ""
    table = np.load(out)
    model = load_model(export)
    bins = Piece(0, spikes, np.zeros((len(spikes), 2), np.float32))
    expected = slide(model, bins, Layout.of(session, model.config), CONTEXT, 1)[0]
    scale = np.array([c.scale for c in session.covariates])
    np.testing.assert_allclose(table[:, 1:] / scale, expected, atol=1e-6)
    np.testing.assert_allclose(table[:, 0], session.start_s + 0.02 * np.arange(len(spikes)))
    assert table[:, 1:].std() > 0


def test_the_stream_the_recording_and_both_ways_agree(run, recorded, export, tmp_path):
    path, session, spikes = recorded
    out = tmp_path / "p.csv"
    exactly = "--cache", "--dtype", "fp32"
    done = run("--model", export, "--recording", path, "--out", out, *exactly)
    assert done.returncode == 0, done.stderr
    assert out.read_text().splitlines()[0] == "start_s,x (cm/s),y (cm/s)"
    kept = np.loadtxt(out, delimiter=",", skiprows=1)[:, 1:]
    arrays = ",".join(str(a.channels) for a in session.arrays)
    stream = ["--model", export, "--stdin", "--arrays", arrays]
    bins = lines_of(spikes[:60])
    found = {}
    for way in (("--recompute",), exactly):
        done = run(*stream, *way, given=bins)
        assert done.returncode == 0, done.stderr
        found[way[0]] = np.array([list(map(float, x.split(","))) for x in done.stdout.splitlines()])
    np.testing.assert_allclose(found["--cache"], kept[:60], atol=1e-4)
    gap = np.abs(found["--cache"] - found["--recompute"]).max(1)
    scale = max(c.scale for c in session.covariates)
    assert gap[:CONTEXT].max() < 1e-6 * scale
    assert gap[CONTEXT:].max() > 1e-6 * scale  # the first bin has left: the ways part


@pytest.mark.parametrize("keep", [False, True])
def test_until_the_window_is_full_online_equals_sliding_windows(recorded, export, keep):
    _, session, spikes = recorded
    model = load_model(export)
    layout = Layout.of(session, model.config)
    decoder = OnlineDecoder(model, layout, CONTEXT, keep)
    ours = np.stack([decoder.step(c) for c in spikes[:50]])
    bins = Piece(0, spikes[:50], np.zeros((50, 2), np.float32))
    expected = slide(model, bins, layout, CONTEXT, 1)[0]
    until = CONTEXT if keep else 50
    np.testing.assert_allclose(ours[:until], expected[:until], atol=1e-6)
    with pytest.raises(BadInput, match="channels"):
        decoder.step(spikes[0, 1:])


def test_predictions_leave_as_soon_as_a_bin_has_come(stream):
    """A line out for each line in, without waiting for the next."""
    for _ in range(3):
        stream.stdin.write("1 0 2\n")
        stream.stdin.flush()
        assert select.select([stream.stdout], [], [], 60)[0], "no line within a minute"
        assert len(stream.stdout.readline().split(",")) == 2
    stream.stdin.close()
    assert stream.wait(60) == 0


def test_a_reader_that_leaves_ends_the_program_quietly(stream):
    stream.stdin.write("1 0 2\n")
    stream.stdin.flush()
    stream.stdout.readline()
    stream.stdout.close()
    stream.stdin.write("1 0 2\n" * 3)
    stream.stdin.close()
    errors = stream.stderr.read()
    assert stream.wait(60) == 0, errors
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


BAD_LINES = [
    (["1 2 3", "1 2"], "line 2 has 2 counts; expected 3 channels"),
    (["1 2 3", "1 2 3 4"], "line 2 has 4 counts"),
    (["1 2 3", "1 -2 3"], "line 2, channel 2: '-2'; expected a whole count"),
    (["1 2 3", "1 2.5 3"], "line 2, channel 2: '2.5'"),
    (["1 2 3", "1 2 256"], "line 2, channel 3: '256'"),
    (["1 2 3", "1 nan 3"], "line 2, channel 2: 'nan'"),
    (["1 2 3", "1 1e2 3"], "line 2, channel 2: '1e2'"),
    (["1 2 3", "1 1_0 3"], "line 2, channel 2: '1_0'"),
    (["1 2 3", "1 " + "9" * 6000 + " 3"], "line 2, channel 2: '99999999999999999999'"),
    (["1 2 3", ""], "line 2 is empty"),
    (["1,2,3", "1,,3"], "line 2, channel 2: ''"),
    (["1 2 3", "1 \u0663 3"], "line 2, channel 2"),
    ([""], "line 1 is empty"),
]


@pytest.mark.parametrize(("lines", "message"), BAD_LINES)
def test_a_bad_line_is_named(lines, message):
    with pytest.raises(BadInput) as e:
        list(parse_bins(line.encode() + b"\n" for line in lines))
    assert str(e.value).startswith(message)


def test_counts_may_be_parted_by_commas_or_spaces():
    lines = [b"1,2,255\n", b" 1 2\t255 \r\n", b"1, 2, 255"]
    assert [c.tolist() for c in parse_bins(lines)] == [[1, 2, 255]] * 3


def test_the_program_refuses_bad_streams_and_arguments(run, recorded, export, tmp_path):
    stream = ["--model", export, "--stdin"]
    done = run(*stream, given="1 2 3\n1 2\n")
    refused(done, "line 2 has 2 counts")
    assert len(done.stdout.splitlines()) == 1  # what came before was decoded
    refused(run(*stream, "--arrays", "2,2", given="1 2 3\n"), "line 1 has 3 counts; expected 4")
    refused(run(*stream, given=""), "standard input is empty")
    refused(run(*stream, "--arrays", "0", given="1\n"), "--arrays 0")
    refused(run(*stream, "--context", "-1", given="1\n"), "--context -1")
    refused(run(*stream, given=" ".join(["1"] * 400)), "max_channels 320")
    refused(run(*stream, "--session", "x", given="1\n"), "no session 'x'", recorded[1].id)
    refused(run("--model", tmp_path, "--stdin", given="1\n"), "no config.json, so no export")
    shutil.copy(export / "config.json", tmp_path)
    refused(run("--model", tmp_path, "--stdin", given="1\n"), "normalisation.json")
    recording = ["--model", export, "--recording"]
    refused(run(*recording, tmp_path / "no.nwb"), "no.nwb: no such file")
    refused(run(*recording, recorded[0], "--out", "p.txt"), "p.txt", ".npy or .csv")
    refused(run(*recording, recorded[0], "covariates.path=processing/x"), "no covariates at")
    assert run("--model", export).returncode == 2
    assert not (tmp_path / "p.txt").exists()


def test_the_session_whose_scale_counts_is_chosen_or_asked_for(tiny_model, tmp_path):
    hand = [{"name": "x", "unit": "cm/s", "scale": 2.0}]
    arm = [{"name": "y", "unit": "m/s", "scale": 3.0}]
    two = write_small_export(tmp_path / "two", tiny_model, {"a": hand, "b": arm, "c": []})
    assert read_units(str(two), "b").names == ["y (m/s)"]
    assert read_units(str(two), likely="a").scale.tolist() == [2.0]
    with pytest.raises(BadInput, match="3 sessions; choose one with --session, of a, b, c"):
        read_units(str(two), likely="z")
    with pytest.raises(BadInput, match="c has no covariates"):
        read_units(str(two), "c")
    none = write_small_export(tmp_path / "none", tiny_model, {})
    with pytest.raises(BadInput, match=r"knows no session.*launch/finetune\.py"):
        read_units(str(none))
    norms = json.loads((two / "normalisation.json").read_text())
    for damage in ({"sessions": None}, {"window_bins": None}, {"sessions": {"a": 1}}):
        (two / "normalisation.json").write_text(json.dumps({**norms, **damage}))
        with pytest.raises(CheckpointCorrupt, match=r"normalisation\.json: not as expected"):
            read_units(str(two), "a")


def test_counts_of_other_arrays_than_the_sessions_are_refused(export, recorded, tmp_path):
    import shutil

    folder = shutil.copytree(export, tmp_path / "e")
    norms = json.loads((folder / "normalisation.json").read_text())
    channels = [a.channels for a in recorded[1].arrays]
    norms["sessions"][recorded[1].id]["channels"] = channels
    (folder / "normalisation.json").write_text(json.dumps(norms))
    command = [PROGRAM, "--model", str(folder), "--stdin"]

    def decode_line(counts, *more):
        line = " ".join(["1"] * counts) + "\n"
        return run_program("launch/decode.py", *command[1:], *more, given=line)

    assert decode_line(sum(channels)).returncode == 0
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *command], stdin=pipe, stdout=pipe, stderr=pipe
    ) as waits:  # the model is there before the first bin
        assert waits.stderr is not None
        said = b""
        while b"channels, 20 bins of 20 ms of context" not in said:
            assert select.select([waits.stderr], [], [], 60)[0], f"no more in a minute: {said}"
            piece = os.read(waits.stderr.fileno(), 1000)
            assert piece, said
            said += piece
        assert waits.poll() is None
        waits.communicate()
    short = decode_line(5)
    assert short.returncode == 1
    assert f"expected {sum(channels)} channels" in short.stderr
    other = decode_line(sum(channels), "--arrays", f"{sum(channels) - 32},32")
    assert other.returncode == 1
    assert "fit a decoder to this recording first" in other.stderr


def test_the_clock_keeps_the_last_bins_and_the_longest_of_all(capsys, monkeypatch):
    program = runpy.run_module("ndt3_dist.programs.decode")
    clock = program["Clock"](20.0)
    clock.LAST, clock.last_ms = 8, clock.last_ms[:8]
    times = iter([0.0, 0.5, *[t for n in range(20) for t in (n, n + 0.001)]])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    for _ in range(21):
        clock.step(SimpleNamespace(step=lambda counts: counts), np.zeros(1))
    clock.report()
    said = capsys.readouterr().err
    assert said == "21 bins of 20 ms; ms per bin: p50 1.00  p95 1.00  p99 1.00  max 500.00\n"

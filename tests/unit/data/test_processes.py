"""Micro-batches from processes of their own are those of a thread, and nothing outlives a run."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import psutil
import pytest
from streams import digest, make_streams, one_stream, walk

from ndt3_dist.data import stream as stream_module
from ndt3_dist.data.memories import Memories, arrays_in
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.processes import Processes
from ndt3_dist.errors import Ndt3DistError, RankFailed


@pytest.fixture(autouse=True)
def real_processes(build_here, monkeypatch):
    monkeypatch.setattr(stream_module, "Processes", Processes)


def started() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [p for p in found if "ndt3_dist.data.processes" in p.cmdline()]


def test_two_processes_build_what_a_thread_builds(corpus, tiny_model):
    plain = walk(make_streams(corpus, tiny_model, workers=0))
    assert digest(walk(make_streams(corpus, tiny_model, workers=2))) == digest(plain)


def test_what_is_damaged_is_found_and_replaced_all_the_same(corpus, tiny_model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(corpus, broken)
    tar = min(broken.rglob("*train*.tar"), default=min(broken.rglob("*.tar")))
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)
    plain = make_streams(str(broken), tiny_model, workers=0)
    expected = walk(plain)
    ours = make_streams(str(broken), tiny_model, workers=2)
    assert digest(walk(ours)) == digest(expected)
    assert ours[0].ledger.state() == plain[0].ledger.state() != []


def test_arrays_stay_when_their_step_and_the_processes_have_gone(corpus, tiny_model):
    stream = one_stream(corpus, tiny_model, workers=2)
    steps = stream.steps(Cursor())
    held = [step.batches[0][1]["spikes"] for step in islice(steps, 4)]
    steps.close()
    assert not stream._build(0).damage  # by itself again
    gc.collect()
    plain = islice(one_stream(corpus, tiny_model, workers=0).steps(Cursor()), 4)
    for array, step in zip(held, plain, strict=True):
        assert np.array_equal(array, step.batches[0][1]["spikes"])
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0
    assert not started()


def test_memory_is_used_again_once_its_arrays_have_gone_and_not_before(corpus, tiny_model):
    stream = one_stream(corpus, tiny_model, workers=0)
    rows = [[(0, [stream.plan.row(p)[1:]])] for p in range(6)]
    processes = Processes(stream.builder, 1)
    (process,) = processes.all
    held, *_ = processes.build(rows[0])
    for batch in rows[1:]:
        processes.build(batch)
    assert len(process.memories) == 2  # one is held, the others' is the same
    (packed,), *_ = stream.builder.build(rows[0])
    for name, array in packed[1].items():
        assert np.array_equal(held[0][1][name], array)
    processes.close()


def test_a_step_larger_than_its_memory_moves_into_a_larger_one():
    memories, sizes = Memories(), [10, 5000, 3, 70000, 2000]
    for number in range(2):  # in a new one, then in one that the rank knows
        memories.begin()
        assert (memories.file >= 0) == (number == 0)
        put = [
            {"a": np.full(size, size), "b": np.full((size, 2), size % 7, "u1")} for size in sizes
        ]
        layout = list(enumerate(memories.put(arrays) for arrays in put))
        found = arrays_in(memories.all[memories.number], layout)
        for (_, ours), arrays in zip(found, put, strict=True):
            assert all(np.array_equal(ours[name], arrays[name]) for name in arrays)
        assert len(memories.all) == 1 + number
        sizes = [8 * size for size in sizes]
        memories.free.add(memories.number)
    memories.begin()
    memories.give_up()
    assert memories.free == {0, 1}


def test_a_process_that_ends_is_an_error_and_signals_that_stop_a_run_do_not_end_it(
    corpus, tiny_model
):
    steps = one_stream(corpus, tiny_model, workers=2).steps(Cursor())
    next(steps)
    for process in started():
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    for _ in range(4):
        next(steps)
    for process in started():
        process.kill()
    with pytest.raises(RankFailed, match="exit code -9"):
        list(islice(steps, 8))
    assert not started()


def test_what_a_model_packs_has_to_be_numbers(corpus, tiny_model, monkeypatch):
    stream = one_stream(corpus, tiny_model, workers=2)
    monkeypatch.setattr(stream.packing, "pack", _objects, raising=False)
    with pytest.raises(Ndt3DistError, match="packs Python objects as words; expected arrays"):
        next(stream.steps(Cursor()))


def _objects(windows):
    return {"words": np.array([None])}


RANK = """
import sys, time
from streams import one_stream
from ndt3_dist.data.order import Cursor
from ndt3_dist.model.model_config import ModelConfig
model = ModelConfig(layers=2, dim=64, heads=2, feedforward=64, context_tokens=False)
steps = one_stream(sys.argv[1], model, workers=2).steps(Cursor())
next(steps)
print("ready", flush=True)
time.sleep(60)
"""


def test_processes_end_with_a_rank_that_is_killed(corpus):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, corpus], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert rank.stdout
    assert rank.stdout.readline() == "ready\n"
    left = psutil.Process(rank.pid).children()
    assert len(left) == 2
    began = time.time()
    rank.kill()
    rank.communicate()
    assert not psutil.wait_procs(left, timeout=30)[1], time.time() - began

"""Bins over Lab Streaming Layer, with the library itself: streams of this machine."""

import sys
import threading
import uuid

import numpy as np
import pytest
from live_parts import CHANNELS, answers_of, hello

from ndt3_dist.errors import BadInput, Unsupported
from ndt3_dist.live import lsl
from ndt3_dist.live.addresses import Place
from ndt3_dist.live.frames import Flag

pylsl = pytest.importorskip("pylsl")
RATE = 50.0


def outlet(name, channels=CHANNELS, rate=RATE, kind=None):
    info = pylsl.StreamInfo(name, "Counts", channels, rate, kind or pylsl.cf_float32, name)
    return pylsl.StreamOutlet(info)


def inlet(name):
    found = pylsl.resolve_byprop("name", name, 1, 20)
    stream = pylsl.StreamInlet(found[0], as_numpy=True)
    stream.open_stream(20)
    return stream


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setattr(lsl, "OTHERS_S", 0.1)
    lsl.library("machine")  # before any other call of it
    key = uuid.uuid4().hex
    return f"counts-{key}", f"decoded-{key}"


def pull(stream, number):
    found = [stream.pull_sample(20) for _ in range(number)]
    return np.stack([sample for sample, _ in found]), [stamp for _, stamp in found]


def test_a_stream_of_bins_becomes_one_of_covariates_with_names_and_units(names):
    given = outlet(names[0])
    answers = answers_of(late_ms=1e9, fill=2)
    link = lsl.Lsl(answers, hello(answers), Place("", *names))
    over = threading.Event()
    thread = threading.Thread(target=link.run, args=(over.is_set,))
    thread.start()
    try:
        decoded = inlet(names[1])
        info = decoded.info(20)
        assert info.get_channel_labels() == ["x", "y", "flags"]
        assert info.get_channel_units()[:2] == ["cm/s", "cm/s"]
        assert info.nominal_srate() == RATE
        assert info.desc().child("decoder").child_value("session") == "s"
        assert given.wait_for_consumers(20)
        begin, nan = pylsl.local_clock(), [np.nan] + [1] * (CHANNELS - 1)
        bins = {0: 1, 1: 2, 3: 3, 4: nan, 5: [0.5] * CHANNELS, 6: 4, 12: 5}
        for number, value in bins.items():
            sample = value if isinstance(value, list) else [value] * CHANNELS
            jitter = 0.004 * (-1) ** number
            given.push_sample(sample, begin + number / RATE + jitter)
        found, stamps = pull(decoded, 5)
        sums = [2 * CHANNELS * n for n in (1, 2, 3, 4, 5)]
        assert found[:, 0].tolist() == sums
        assert found[:, 1].tolist() == [1, 2, 4, 7, 1]
        flags = [0, 0, Flag.FILLED, Flag.FILLED, Flag.RESET]
        np.testing.assert_array_equal(found[:, 2].astype(int) & ~Flag.MISSED, flags)
        np.testing.assert_allclose(np.diff(stamps) * RATE, [1, 2, 3, 6], atol=0.7)
    finally:
        over.set()
        thread.join(30)
        link.close()
    assert not thread.is_alive()
    tally = answers.tally
    assert (tally.refused, tally.filled, tally.lost, tally.resets) == (2, 3, 8, 1)


def test_fall_backs_are_pushed_while_no_sample_comes(names):
    given = outlet(names[0])
    answers = answers_of(bin_ms=20.0)
    link = lsl.Lsl(answers, hello(answers), Place("", *names))
    over = threading.Event()
    thread = threading.Thread(target=link.run, args=(over.is_set,))
    thread.start()
    try:
        decoded = inlet(names[1])
        assert given.wait_for_consumers(20)
        given.push_sample([1] * CHANNELS)
        found, stamps = pull(decoded, 4)
        assert found[:, :2].tolist() == [[12, 1]] * 4
        assert (found[:, 2].astype(int) & ~Flag.MISSED).tolist() == [0, *[Flag.FALLBACK] * 3]
        np.testing.assert_allclose(np.diff(stamps), 0.02, atol=1e-6)
    finally:
        over.set()
        thread.join(30)
        link.close()


def test_streams_of_something_else_are_refused(names, monkeypatch):
    answers = answers_of()
    link = lsl.Lsl(answers, hello(answers), Place("", *names))
    wrong = [
        ({"channels": 5}, "has 5 channels; expected the counts of 6 channels"),
        ({"rate": 30_000.0}, "30000 samples a second; expected bins of 20 ms, 50 a"),
        ({"kind": pylsl.cf_string}, "6 channels of text"),
    ]
    for how, message in wrong:
        stream = outlet(names[0], **how)
        with pytest.raises(BadInput, match=message):
            link.run(lambda: False)
        del stream
    monkeypatch.setattr(lsl, "OTHERS_S", 1)
    both = outlet(names[0]), outlet(names[0])
    with pytest.raises(BadInput, match="2 LSL streams are called"):
        link.run(lambda: False)
    del both
    with pytest.raises(BadInput, match="a name without quotes"):
        Place("", "a' or '1", "b")
    with pytest.raises(BadInput, match="without --lsl-out NAME"):
        Place("", "a")
    link.close()


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pylsl", None)
    with pytest.raises(Unsupported, match=r"pip install 'ndt3_dist\[live\]'"):
        lsl.library("machine")

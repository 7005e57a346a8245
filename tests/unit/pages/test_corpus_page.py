"""The report of a corpus sees what is odd."""

import dataclasses

import numpy as np
from small_corpus import make_recording, write_corpus

from ndt3_dist.pages.corpus_page import Look, doubles, look, write_page
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest


def test_silent_and_double_channels_and_double_sessions_are_named(tmp_path):
    odd = make_recording(1, 40, [8])
    times = [t.copy() for t in odd.spike_times]
    times[2], times[5] = np.zeros(0), times[1]
    odd = dataclasses.replace(odd, spike_times=times)
    twin = dataclasses.replace(odd, session="09")
    write_corpus(tmp_path / "c", [odd, make_recording(2, 40, [8]), twin])
    corpus, manifest = Corpus(str(tmp_path / "c")), read_manifest(str(tmp_path / "c"))
    seen = {s.id: look([corpus], n, s, 0.02) for n, s in enumerate(manifest.sessions)}
    assert seen["t-S-01"].silent == [2]
    assert seen["t-S-01"].double == [5]
    assert seen["t-S-02"].silent == seen["t-S-02"].double == []
    assert doubles(seen) == [("t-S-01", "t-S-09", 1.0)]
    spikes = sum(len(t) for t in times)
    assert abs(seen["t-S-01"].rates.sum() - spikes / 40) < 0.1 * spikes / 40

    text = open(write_page(str(tmp_path / "c"))).read()  # noqa: SIM115
    assert "1 channels equal another" in text
    assert "Sessions that are there twice" in text
    assert text.count("<img") == 4
    remove_sessions(str(tmp_path / "c"), ["t-S-09"])
    assert not (tmp_path / "c" / "report.html").exists()  # it named the session
    text = open(write_page(str(tmp_path / "c"))).read()  # noqa: SIM115
    assert "t-S-09" not in text
    assert "there twice" not in text


def test_flags_are_for_what_a_person_should_look_at():
    good = Look(np.ones(8), [1], [], np.zeros((0, 0)))
    assert good.flags() == []
    bad = Look(np.ones(4), [0, 1], [3], np.zeros((0, 0)), set(), 0.9, 255)
    assert len(bad.flags()) == 4

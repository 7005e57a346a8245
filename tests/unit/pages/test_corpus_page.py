"""The page of a corpus sees what is odd."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.errors import BadInput
from ndt3_dist.pages import corpus_page
from ndt3_dist.pages.corpus_page import write_page
from ndt3_dist.pages.inspection import Counts, Inspection, Signals, doubles, inspect_session
from ndt3_dist.pages.sessions_table import session_rows
from ndt3_dist.prep.remove import remove_sessions
from ndt3_dist.programs import report_corpus
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest


def odd_recording() -> Recording:
    """Channel 2 is silent, channel 5 equals channel 1."""
    odd = make_recording(1, 40, [8])
    times = [t.copy() for t in odd.spike_times]
    times[2], times[5] = np.zeros(0), times[1]
    return dataclasses.replace(odd, spike_times=times)


def page_of(folder: Path) -> str:
    return Path(write_page(str(folder))).read_text()


def test_silent_and_double_channels_and_double_sessions_are_named(tmp_path):
    odd = odd_recording()
    twin = dataclasses.replace(odd, session="09")
    write_corpus(tmp_path / "c", [odd, make_recording(2, 40, [8]), twin])
    corpus, manifest = Corpus(str(tmp_path / "c")), read_manifest(str(tmp_path / "c"))
    seen = {s.id: inspect_session([corpus], n, s, 0.02) for n, s in enumerate(manifest.sessions)}
    counts = {name: found.counts["spikes"] for name, found in seen.items()}
    assert (counts["t-S-01"].silent, counts["t-S-01"].double) == ([2], [5])
    assert counts["t-S-02"].silent == counts["t-S-02"].double == []
    assert doubles(seen) == [("t-S-01", "t-S-09", 1.0)]
    spikes = sum(map(len, odd.spike_times))
    assert abs(counts["t-S-01"].rates.sum() - spikes / 40) < 0.1 * spikes / 40
    assert seen["t-S-01"].signals["covariates"].trace.shape == (3 * 100 + 2, 2)

    page = page_of(tmp_path / "c")
    assert "1 channel equals another" in page
    assert "Sessions that are there twice" in page
    assert "3 sessions of 1 subject" in page
    assert "2 to look at</h1>" in page
    assert page.split("What sessions hold")[1].count("<svg") == 6
    assert page.count("cells") - page.count(".cells") == 2 * 2  # two rasters, of one and of several
    remove_sessions(str(tmp_path / "c"), ["t-S-09"])
    assert not (tmp_path / "c" / "report.html").exists()  # it named the session
    page = page_of(tmp_path / "c")
    assert "t-S-09" not in page
    assert "there twice" not in page


def test_flags_are_for_what_a_person_should_look_at():
    good = Inspection({"s": Counts(np.ones(8), [1])}, {"c": Signals(np.zeros((0, 1)), 50.0, 0.5)})
    assert good.flags() == []
    counts = Counts(np.ones(4), [0, 1], [3], 255)
    bad = Inspection({"s": counts}, {"c": Signals(np.zeros((0, 1)), 50.0, 0.9)})
    assert len(bad.flags()) == 4
    assert "90% of c missing" in bad.flags()


def test_a_session_that_is_odd_by_itself_is_counted_and_comes_first(tmp_path):
    splits = [{"match": "*", "intervals": {"train": (0, 0.5), "val": (0.5, None)}}]
    write_corpus(tmp_path / "c", [make_recording(2, 40, [8]), odd_recording()], splits=splits)
    page = page_of(tmp_path / "c")
    assert "2 sessions of 1 subject" in page
    assert "1 to look at</h1>" in page
    assert "Validation windows" in page
    assert "Kept for validation" in page
    assert re.findall(r"<h3><code>(.*?)</code>", page) == ["t-S-01", "t-S-02"]


def test_streams_that_no_session_has_are_no_columns(tmp_path):
    write_corpus(tmp_path / "c", [make_recording(1, 40, [8], dims=0)], version=1)
    (row,) = session_rows(read_manifest(str(tmp_path / "c")))
    assert (row["session"], row["spikes"], row["time"]) == ("t-S-01", "8", "40 s")
    assert list(row) == ["session", "time", "spikes", "train windows", "rejected", "Hz per channel"]


def test_a_corpus_without_spikes_is_shown_under_the_names_of_its_streams(tmp_path):
    times = np.arange(0, 40, 0.01)
    recordings = []
    for number in (1, 2):
        waves = np.sin(times[:, None] * (number + np.arange(8)))
        signal = Signal("field_potential", waves, times, "uV", per_bin=2)
        recordings.append(Recording("S", f"{number}", [], [], 0.0, 40.0, signals=[signal]))
    write_corpus(tmp_path / "c", recordings)
    page = page_of(tmp_path / "c")
    assert "<code>field_potential</code>, uV, the first 6 of 8 dimensions" in page
    assert "dimension 6" in page
    assert "nothing odd" in page
    for other in ("spikes", "covariates", "channel"):
        assert other not in page.split("</style>")[1].replace("channels or dimensions", "")


def test_what_recordings_say_of_themselves_is_escaped(tmp_path):
    recording = make_recording(1, 40, [8])
    recording = dataclasses.replace(recording, covariate_names=("<script>", "a&b"))
    write_corpus(tmp_path / "c", [recording])
    page = page_of(tmp_path / "c")
    assert "&lt;script&gt;" in page
    assert "a&amp;b" in page
    assert "<script" not in page


def text_of_cards(page: str) -> dict[str, str]:
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    return {what: re.sub(r"<[^>]*>", "", told) for what, told in found}


def test_totals_are_those_of_the_manifest_and_the_index(tmp_path):
    recordings = [make_recording(1, 40, [40]), make_recording(2, 30, [32, 20], dims=3)]
    recordings[1] = dataclasses.replace(recordings[1], subject="T")
    manifest = write_corpus(tmp_path / "c", recordings, licence="CC0-1.0")
    cards = text_of_cards(page_of(tmp_path / "c"))
    tokens = 20 * 100 * (2 + 2) + 15 * 100 * (1 + 1 + 3)
    expected = {"Sessions": "2", "Subjects": "2", "Hours": "0.0194", "Bin": "20 ms"}
    expected |= {"Tokens (32 channels each)": f"{tokens / 1000:.1f}k", "Licence": "CC0-1.0"}
    expected["Spikes"] = f"{sum(s.spikes for s in manifest.sessions) / 1000:.1f}k"
    assert expected.items() <= cards.items()


def test_a_window_is_shown_of_a_session_and_of_one_of_another_subject(tmp_path):
    recordings = [make_recording(number, 40, [8]) for number in (1, 2, 3, 4)]
    recordings[2] = dataclasses.replace(recordings[2], subject="T")
    write_corpus(tmp_path / "c", recordings)
    page = page_of(tmp_path / "c")
    told = re.findall(r"<h3>From <span[^>]*>(.*?)</span> into <code>(.*?)</code> on", page)
    assert told == [("20 s", "t-S-01"), ("20 s", "t-T-03")]
    window = page.split("Windows as they are")[1].split("<h2>")[0]
    assert window.count("</code>, cm/s<") == 2
    assert window.count("by channel") == 2


def test_of_many_sessions_some_are_read_and_some_are_rows(tmp_path, monkeypatch):
    recordings = [make_recording(number, 10, [8]) for number in range(6)]
    recordings[5] = dataclasses.replace(odd_recording(), session="05")
    write_corpus(tmp_path / "c", recordings)
    monkeypatch.setattr("ndt3_dist.pages.sessions_table.ROWS", 3)
    read: list[str] = []
    inspect = corpus_page.inspect_session

    def noted(corpora, number, session, bin_s):
        read.append(session.id)
        return inspect(corpora, number, session, bin_s)

    monkeypatch.setattr(corpus_page, "inspect_session", noted)
    page = Path(write_page(str(tmp_path / "c"), 2)).read_text()
    assert read == ["t-S-00", "t-S-05"]
    assert ": 1 to look at of 2 that were read</h1>" in page
    assert "3 of 6 sessions; manifest.json has all" in page
    rows = page.split("<h2>Sessions</h2>")[1].split("<h2>")[0]
    assert re.findall(r"<td><code>(t-S-..)</code>", rows) == ["t-S-00", "t-S-01", "t-S-05"]
    assert "were read" not in page_of(tmp_path / "c")


def test_no_session_to_read_is_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", "nowhere", "--sessions", "0"])
    with pytest.raises(BadInput, match="--sessions 0: expected at least 1"):
        report_corpus.main()

"""From a BIDS folder of iEEG to windows of words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edf_file import write_edf
from scipy.signal import resample_poly

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.in_memory import content_hash
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.shards.manifest import Stream
from ndt3_dist.tasks.words import word_targets
from ndt3_dist.tasks.words.ieeg import bids_folder, resampling, word_table
from ndt3_dist.tasks.words.ieeg.read_ieeg import read, word_signal
from ndt3_dist.tasks.words.prepare_words import series_of
from ndt3_dist.tasks.words.series import has_window, windows
from ndt3_dist.tasks.words.word_config import Experiment, TaskConfig

RNG = np.random.default_rng(2)


def stage_of(story, corpus, **data) -> Experiment:
    data = {"data_root": str(story), "corpus": corpus, **data}
    return Experiment.model_validate({"task_config": {"data_params": data}})


def task_of(story, name="word_embedding_decoding_task", **special) -> TaskConfig:
    data = {"data_root": str(story)}
    return TaskConfig(task_name=name, data_params=data, task_specific_config=special)  # pyright: ignore


def test_series_are_the_recordings_without_bad_channels_side_by_side(story, corpus, tmp_path):
    import mne

    first, second = series_of(stage_of(story, corpus), corpus, tmp_path)
    assert first.labels == tuple(f"G{n}" for n in range(1, 12))  # G12 is bad
    raw = mne.io.read_raw_fif(next(story.glob("**/sub-01*.fif")), verbose="error")
    assert pytest.approx(1e6 * raw.get_data()[:11], rel=1e-5) == first.values.T
    assert first.places[0] is not None
    words = word_table.read_words(story / "stimuli/podcast_transcript.csv")
    assert list(first.onsets.values()) == pytest.approx(words.start, abs=1e-5)
    assert second.onsets == first.onsets
    at = words.start[5:7]
    data = windows([first, second], at, 100, 0.5)
    begin = round((at[0] + 0.1 - 0.25) * 512)
    assert (data[0, :11] == first.values[begin : begin + 256].T).all()
    assert (data[0, 11:] == second.values[begin : begin + 256].T).all()


def test_a_lag_is_a_slice_of_one_file(story, corpus, tmp_path):
    one = series_of(stage_of(story, corpus), corpus, tmp_path)[0]
    assert isinstance(one.values, np.memmap)
    assert one.path.stat().st_size < 4 * one.values.size + 200
    before = one.path.stat().st_mtime_ns
    series_of(stage_of(story, corpus), corpus, tmp_path)
    assert one.path.stat().st_mtime_ns == before


def test_electrodes_are_chosen_by_list_regex_and_subject(story, corpus, tmp_path):
    def labels(**data):
        return [s.labels for s in series_of(stage_of(story, corpus, **data), corpus, tmp_path)]

    listed = tmp_path / "sig.csv"  # ids of another column of participants.tsv
    listed.write_text("subject,elec\n662,G3\n662,G1\n")
    assert labels(electrode_file_path=str(listed)) == [("G1", "G3")]
    assert labels(per_subject_electrodes={2: ["G2"], 1: ["G4"]}) == [("G2",), ("G4",)]
    assert labels(channel_reg_ex="G1$", subject_ids=[2]) == [("G1",)]
    with pytest.raises(BadInput, match="no subject 7; there are 1, 2"):
        labels(subject_ids=[7])
    with pytest.raises(BadInput, match="none of its 11 channels is left"):
        labels(channel_reg_ex="X")


def test_words_without_a_window_at_some_lag_or_across_a_gap_are_left_out(story, corpus, tmp_path):
    one = series_of(stage_of(story, corpus), corpus, tmp_path)[0]
    starts = np.array([0.2, 5.0, 10.0, 39.9])
    assert has_window([one], starts, [0], 0.625).tolist() == [False, True, True, False]
    gaps = one.finite.copy()
    gaps[int(5.1 * 512) :] += 1
    other = replace(one, path=tmp_path / "other.npy")
    np.save(tmp_path / "other.gaps.npy", gaps)
    assert has_window([one, other], starts, [0], 0.625).tolist() == [False, False, True, False]
    assert has_window([other], starts, [-400], 0.4)[1]


def test_a_byte_order_mark_is_no_part_of_a_column(story):
    table = story / "sub-01/ieeg/sub-01_task-podcast_channels.tsv"
    assert table.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert bids_folder.read_channels(story, "01")[0].bad == {"G12"}


@pytest.mark.parametrize("target", [100.0, 512.0, 1000.0])
def test_blocks_resample_as_the_whole_does(target, monkeypatch):
    values = RNG.normal(size=(6000, 3))
    monkeypatch.setattr(resampling, "BLOCK", 1500)
    step = resampling.ratio(512, target)
    parts = list(resampling.resampled(lambda a, b: values[a:b], 6000, step))
    assert len(parts) > 3
    whole = resample_poly(values, step.numerator, step.denominator, axis=0, padtype="edge")
    found = np.concatenate([block for _, block in parts])
    assert found == pytest.approx(whole, abs=1e-5)
    assert [first for first, _ in parts] == np.cumsum(
        [0, *(len(b) for _, b in parts[:-1])]
    ).tolist()


def test_what_is_too_fast_for_the_new_rate_does_not_fold_into_it():
    times = np.arange(5120) / 512
    fast, slow = np.sin(2 * np.pi * 90 * times), np.sin(2 * np.pi * 5 * times)
    step = resampling.ratio(512, 100)
    (_, found), *_ = resampling.resampled(lambda a, b: np.stack([fast, slow], 1)[a:b], 5120, step)
    assert np.abs(found[50:-50, 0]).max() < 0.02  # every fifth sample alone would give 10 Hz of 1
    assert np.abs(found[50:-50, 1]).max() > 0.98


def test_an_envelope_is_the_amplitude_of_its_band_in_blocks_too():
    times = np.arange(512 * 6) / 512
    loud = 2 + np.sin(2 * np.pi * times)
    values = (loud * np.sin(2 * np.pi * 110 * times) + 30 * np.sin(2 * np.pi * 8 * times))[:, None]
    envelope = resampling.envelope(lambda a, b: values[a:b], len(values), 512, (70, 200))
    found = np.concatenate([envelope(0, 1400), envelope(1400, len(values))])[:, 0]
    assert found[512:-512] == pytest.approx(loud[512:-512], rel=0.05)


def test_an_edf_recording_is_read_resampled_and_has_its_words(tmp_path):
    root, own = tmp_path / "bids", tmp_path / "bids/sub-03/ieeg"
    own.mkdir(parents=True)
    (root / "participants.tsv").write_text("participant_id\nsub-03\n")
    (root / "words.csv").write_text("word,start,end\nyes,1.001,1.2\nno,1.003,1.3\nwell,9,9.2\n")
    names, values = ["A1", "A2"], 100 * RNG.normal(size=(2, 512 * 4))
    write_edf(own / "sub-03_task-x_ieeg.edf", names, values, 512)
    told = {"target_hz": 256, "transcript": "words.csv"}
    options = ReadOptions(options=told, bin_size_ms=31.25)
    made = read(own / "sub-03_task-x_ieeg.edf", options)
    signal, words = made.signals
    assert (signal.per_bin, signal.labels, signal.values.shape) == (8, ("A1", "A2"), (1024, 2))
    expected = resample_poly(values.T, 1, 2, axis=0, padtype="edge")
    assert signal.values == pytest.approx(expected, abs=0.2)  # 16 bits of 10 mV
    assert any("no channels.tsv" in said for said in made.said)
    assert any("1 of 3 words begin outside" in said for said in made.said)
    at = np.flatnonzero(np.isfinite(words.values[:, 0]))
    onsets = at * 0.03125 + words.values[at, 1]
    assert onsets == pytest.approx([1.001, 1.003], abs=1e-6)  # two of one bin, the later beside it


def test_rates_that_do_not_fit_bins_are_said(tmp_path):
    write_edf(tmp_path / "sub-1_task-x_ieeg.edf", ["A1"], np.zeros((1, 1024)), 512)
    with pytest.raises(BadInput, match=r"512 Hz has 10\.24 samples in bin_size_ms 20"):
        read(tmp_path / "sub-1_task-x_ieeg.edf", ReadOptions(bin_size_ms=20))
    with pytest.raises(BadInput, match="no BIDS name"):
        read(tmp_path / "x.edf", ReadOptions(bin_size_ms=20))
    told = {"root": str(tmp_path), "transcript": "../w.csv"}
    bad = ReadOptions(options=told, bin_size_ms=125)
    with pytest.raises(BadInput, match="expected a path below"):
        read(tmp_path / "sub-1_task-x_ieeg.edf", bad)


def test_a_word_that_begins_where_another_does_keeps_its_time():
    table = word_table.WordTable(np.arange(3), list("abc"), np.array([0.1, 0.101, 0.3]), np.ones(3))
    found, said = word_signal(table, 0.05, 1.0, []).values, []
    at = np.flatnonzero(np.isfinite(found[:, 0]))
    assert found[at, 0].tolist() == [0, 1, 2]
    assert at * 0.05 + found[at, 1] == pytest.approx([0.1, 0.101, 0.3])
    assert not said


def test_features_are_joined_on_the_number_of_a_word_never_by_position(tmp_path):
    (tmp_path / "t.tsv").write_text("\tword_idx\tword\n0\t4\tab\n1\t4\tab\n2\t7\tc\n")
    np.save(tmp_path / "f.npy", np.array([[1, 2], [3, 4], [9, 9]], np.float32))
    found = word_table.word_vectors(tmp_path / "f.npy", "", tmp_path / "t.tsv")
    assert {k: v.tolist() for k, v in found.items()} == {4: [2, 3], 7: [9, 9]}
    np.save(tmp_path / "f.npy", np.zeros((4, 2)))
    with pytest.raises(BadInput, match=r"has 4 rows, .* 3; expected one for each sub-token"):
        word_table.word_vectors(tmp_path / "f.npy", "", tmp_path / "t.tsv")


def test_layers_of_sub_tokens_and_glove_give_the_same_words_vectors(story):
    layer = word_targets.word_embedding(task_of(story, embedding_layer=24), {})
    glove = word_targets.word_embedding(task_of(story, embedding_type="glove"), {})
    assert layer.text == glove.text
    single = np.arange(0, len(layer), 2)  # one sub-token; of two the mean is taken
    assert layer.target == pytest.approx(glove.target, abs=1e-4)
    assert len(single) < len(layer)
    with pytest.raises(BadInput, match="no dataset 'layer-3'; there are: layer-24"):
        word_targets.word_embedding(task_of(story, embedding_layer=3), {})


def test_arbitrary_vectors_are_of_the_word_alone(story):
    one = word_targets.word_embedding(task_of(story, embedding_type="arbitrary"), {})
    repeated = next(t for t in one.text if one.text.count(t) > 1)
    rows = [i for i, t in enumerate(one.text) if t == repeated]
    assert (one.target[rows] == one.target[rows[0]]).all()
    assert one.target.shape[1] == 50
    assert np.abs(one.target).max() <= 1


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        ("content_noncontent_task", "class", 2),
        ("pos_task", "class", 3),
        ("gpt_surprise_task", "number", 0),
        ("gpt_surprise_multiclass_task", "class", 3),
        ("sentence_onset_task", "class", 2),
        ("iu_boundary_task", "class", 2),
        ("volume_level_decoding_task", "number", 0),
    ],
)
def test_every_task_gives_moments_and_targets(story, name, kind, classes):
    special = {"negatives_per_positive": 2} if name == "sentence_onset_task" else {}
    found = word_targets.TASKS[name](task_of(story, name, **special), {})
    assert (found.kind, found.classes) == (kind, classes)
    assert (np.diff(found.start) >= 0).all()
    if name == "sentence_onset_task":
        begins = found.start[found.target == 1]
        others = found.start[found.target == 0]
        assert np.abs(begins[:, None] - others).min() >= 0.75
        assert len(others) == 2 * len(begins)
    with pytest.raises(BadInput, match="unknown colour"):
        word_targets.TASKS[name](task_of(story, name, colour=1), {})


def test_loudness_follows_the_sound_in_blocks(story, monkeypatch):
    task = task_of(story, "volume_level_decoding_task")
    found = word_targets.volume_level(task, {})
    loud = 0.3 + 0.25 * np.sin(2 * np.pi * 0.5 * found.start)
    inner = slice(20, -20)
    assert found.target[inner] == pytest.approx(20 * np.log10(loud[inner]), abs=0.8)
    monkeypatch.setattr("ndt3_dist.tasks.words.loudness.BLOCK_S", 7.0)
    again = word_targets.volume_level(task, {})
    assert again.target[inner] == pytest.approx(found.target[inner], abs=1e-3)


def test_streams_and_recordings_without_names_are_what_they_were():
    plain = Stream(name="lfp", rate_hz=50, dims=2, dtype="float32", unit="uV")
    assert set(plain.model_dump()) == {"name", "rate_hz", "dims", "dtype", "unit", "changes"}
    named = plain.model_copy(update={"labels": ["a", "b"], "places": [[1.0, 2, 3], None]})
    assert Stream.model_validate(named.model_dump()) == named
    signal = Signal("lfp", np.zeros((4, 2)), np.arange(4.0), "uV")
    made = Recording("s", "t", [], [], 0, 4, signals=[signal])
    known = "2bd67359494d53e5"
    assert content_hash(made)[0][:16] == known
    signal.labels = ("a", "b")
    assert content_hash(made)[0][:16] != known


def test_a_signal_on_the_rows_of_its_stream_is_stored_as_it_is():
    from ndt3_dist.prep.streams import bin_signal

    recipe = Recipe(dataset="d", bin_size_ms=20, window_ms=2000)
    times, values = np.arange(400) / 100, RNG.normal(size=(400, 2)).astype(np.float32)
    signal = Signal("ecog", values, times, "uV", per_bin=2)
    fast = bin_signal(signal, 0.0, recipe, 200)
    assert np.shares_memory(fast.values, values)
    slow = bin_signal(replace(signal, values=values.astype(np.float64)), 0.0, recipe, 200)
    assert (slow.values == fast.values).all()
    late = bin_signal(replace(signal, times=times + 0.004), 0.0, recipe, 200)
    assert not np.shares_memory(late.values, values)


def test_a_pointer_of_git_annex_is_said(tmp_path):
    path = Path(tmp_path / "sub-01_task-x_ieeg.fif")
    path.write_text("/annex/objects/SHA256E-s1")
    with pytest.raises(BadInput, match="mne cannot read it"):
        read(path, ReadOptions(bin_size_ms=15.625))

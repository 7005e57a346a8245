"""Files of the benchmark's structure become its tensors, its HDF5, and a corpus of trials.

The tensors of such files were compared once with those of nlb_tools 0.0.4, at 5 and 20 ms: all are
equal bit for bit, PSTHs to 1e-15. It leaves out trials whose bins were not observed, where NaN
stands here.
"""

import numpy as np
import pytest
from nlb_files import write_nlb

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.job import prepare
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.tasks.nlb import nlb_tensors as tensors
from ndt3_dist.tasks.nlb.nlb_corpus import blocks_of, kind_of, recipe_of
from ndt3_dist.tasks.nlb.nlb_data import DataFolder, make_data
from ndt3_dist.tasks.nlb.nlb_datasets import DATASETS, dataset_of
from ndt3_dist.tasks.nlb.nlb_h5 import read_h5, write_h5
from ndt3_dist.tasks.nlb.nlb_session import HELDIN, HELDOUT, read_session

NAMES = ("mc_maze", "mc_rtt", "area2_bump", "dmfc_rsg")
"""One of each structure; the other mazes have that of the first."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("nlb")
    return {name: write_nlb(root / name, name, (6, 4, 2), (5, 3)) for name in NAMES}


def session_of(folders, name, desc="train"):
    return read_session(folders[name] / f"sub-X_desc-{desc}.nwb", DATASETS[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bin_ms", [5, 20])
def test_counts_are_those_of_spike_times_in_each_trials_window(folders, name, bin_ms):
    dataset, session = DATASETS[name], session_of(folders, name)
    made = tensors.train_input(session, dataset, bin_ms)
    windows = tensors.Windows(session, dataset, ("train",), bin_ms)
    bins = dataset.bins(bin_ms)
    assert made["train_spikes_heldin"].shape == (6, bins, 5)
    assert made["train_spikes_heldout_forward"].shape == (6, 200 // bin_ms, 3)
    for trial in (0, 5):
        align = session.trials[dataset.align][windows.rows[trial]] / 1e9
        start = align + dataset.window_ms[0] / 1000 + windows.moved[trial] * bin_ms / 1000
        first = int(np.ceil(round(start * 1000 / bin_ms, 6)))
        edges = (first + np.arange(bins + 1)) * bin_ms
        for unit, times in enumerate(session.spikes[HELDIN]):
            expected = np.histogram(times + 0.5, edges)[0]
            assert made["train_spikes_heldin"][trial, :, unit].tolist() == expected.tolist()


def test_bins_behind_what_was_observed_are_nan_and_others_are_not(folders):
    session, dataset = session_of(folders, "mc_rtt"), DATASETS["mc_rtt"]
    made = tensors.train_input(session, dataset, 5)
    assert not np.isnan(made["train_spikes_heldin"]).any()
    # A trial of 600 ms that a test trial follows: nothing behind it is in this file.
    lost = np.isnan(made["train_spikes_heldin_forward"]).all(axis=(1, 2))
    assert 0 < lost.sum() < 6


def test_velocity_is_lagged_and_masked_where_there_is_none(folders):
    session, dataset = session_of(folders, "mc_maze"), DATASETS["mc_maze"]
    target = tensors.eval_target(session, dataset, 5)["mc_maze"]
    row = np.flatnonzero(session.splits == "val")[0]
    start = session.trials["move_onset_time"][row] / 1e6 - 250 + 100
    at = int(np.ceil(start / 5)) * 5 + 5 * np.arange(140)
    assert session.velocity is not None
    assert session.velocity_ms is not None
    ms = session.velocity_ms.searchsorted(at)
    close = session.velocity[ms]  # smooth: the filter changes little of it
    found = target["eval_behavior"][0]
    inside = slice(10, 110)
    assert np.abs(found - close)[inside].max() < 0.03 * np.abs(close).max()
    assert target["psth"].shape == (4, 140, 8)
    members = np.concatenate(target["eval_cond_idx"])
    assert sorted(members.tolist()) == [0, 1, 2, 3]


def test_dmfc_is_scored_from_set_to_go_and_its_windows_are_moved(folders):
    session, dataset = session_of(folders, "dmfc_rsg"), DATASETS["dmfc_rsg"]
    target = tensors.eval_target(session, dataset, 5)["dmfc_rsg"]
    windows = tensors.Windows(session, dataset, ("val",), 5)
    rows = windows.rows
    lasts = session.trials["go_time"][rows] - session.trials["set_time"][rows]
    seen = ~np.isnan(target["eval_spikes_heldout"][:, :, 0])
    assert np.abs(seen.sum(axis=1) - lasts / 5e6).max() <= 1
    ends = seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
    assert (seen.shape[1] - 1 - ends == windows.moved).all()
    assert windows.moved.max() > 0
    assert target["eval_jitter"].tolist() == windows.moved.tolist()
    outlier = session.trials["is_outlier"][tensors.Windows(session, dataset, ("train",), 5).rows]
    assert (np.isnan(target["train_behavior"]).all(axis=1) == (outlier == 1)).all()


def test_area2_has_a_decoder_for_each_kind_of_trial(folders):
    session, dataset = session_of(folders, "area2_bump"), DATASETS["area2_bump"]
    target = tensors.eval_target(session, dataset, 20)["area2_bump_20"]
    assert (target["train_decode_mask"].sum(axis=1) == 1).all()
    assert target["eval_decode_mask"].shape == (4, 2)


def test_test_trials_come_without_their_heldout_spikes(folders):
    session, dataset = session_of(folders, "mc_maze", "test"), DATASETS["mc_maze"]
    found = tensors.eval_input(session, dataset, 5, "test")
    assert list(found) == ["eval_spikes_heldin"]
    assert found["eval_spikes_heldin"].shape == (2, 140, 5)
    assert not session.spikes[HELDOUT]
    with pytest.raises(BadInput, match=r"no val trial .*its trials are test"):
        tensors.eval_input(session, dataset, 5)


def test_tensors_come_back_from_hdf5_by_old_and_new_names(folders, tmp_path):
    session, dataset = session_of(folders, "mc_maze"), DATASETS["mc_maze"]
    target = tensors.eval_target(session, dataset, 20)
    back = read_h5(write_h5(tmp_path / "t.h5", target))
    assert back.keys() == target.keys()
    found, wanted = back["mc_maze_20"], target["mc_maze_20"]
    assert found.keys() == wanted.keys()
    assert [x.tolist() for x in found["eval_cond_idx"]] == [
        x.tolist() for x in wanted["eval_cond_idx"]
    ]
    spikes = tensors.train_input(session, dataset, 20)
    old = write_h5(tmp_path / "old.h5", spikes, old_names=True)
    import h5py

    with h5py.File(old) as file:
        assert "train_data_heldin" in file
        assert "train_spikes_heldin" not in file
    for name, values in read_h5(old).items():
        np.testing.assert_array_equal(values, np.asarray(spikes[name], np.float32))
    with pytest.raises(BadInput, match="exists; choose another name"):
        write_h5(old, spikes)


def test_hdf5_from_elsewhere_is_read_with_distrust(tmp_path):
    import h5py

    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink("/etc/hosts", "/")
    with pytest.raises(BadInput, match="external link"):
        read_h5(path)
    (tmp_path / "y.h5").write_bytes(b"no")
    with pytest.raises(BadInput, match="not a readable HDF5"):
        read_h5(tmp_path / "y.h5")


def test_a_corpus_of_trials_holds_what_the_tensors_hold(folders, tmp_path):
    data, manifest = make_data(
        DATASETS["mc_maze"], str(folders["mc_maze"]), tmp_path / "d", 5, ["num_workers=0"]
    )
    assert {s.session: {k: w.kept for k, w in s.windows.items()} for s in manifest.sessions} == {
        "test": {"test": 2},
        "train": {"train": 6, "val": 4},
    }
    inputs = data.tensors("val", "train_input")
    corpus = Corpus(data.corpus, ("train",))
    places = corpus.index["start_bin"] // 180
    for number, place in enumerate(places):
        sample = corpus.read(number)
        heldin = sample["spikes"][:140, :5]
        np.testing.assert_array_equal(heldin, inputs["train_spikes_heldin"][place])
        forward = sample["spikes"][140:, 5:]
        np.testing.assert_array_equal(forward, inputs["train_spikes_heldout_forward"][place])
        scale = [c.scale for c in manifest.sessions[1].covariates]
        velocity = sample["covariates"][:140] * scale
        np.testing.assert_allclose(velocity, inputs["train_behavior"][place], rtol=1e-5)
        assert np.isnan(sample["covariates"][140:]).all()
        assert (sample["observed"] == 1).all()
    assert DataFolder.open(data.path).fingerprint == manifest.fingerprint
    with pytest.raises(BadInput, match="made already"):
        make_data(DATASETS["mc_maze"], str(folders["mc_maze"]), tmp_path / "d")
    with pytest.raises(BadInput, match=r"num_worker=3: expected num_workers=VALUE"):
        make_data(DATASETS["mc_maze"], str(folders["mc_maze"]), tmp_path / "e", 5, ["num_worker=3"])


def test_tensors_of_nlb_tools_become_the_same_corpus(folders, tmp_path):
    session, dataset = session_of(folders, "mc_rtt"), DATASETS["mc_rtt"]
    values = tensors.train_input(session, dataset, 20) | tensors.eval_input(session, dataset, 20)
    path = write_h5(tmp_path / "sub-X.h5", values, old_names=True)
    blocks = blocks_of(path, dataset, 20)
    trials = {kind_of([b.split for b in blocks]): {b.split: len(b.heldin) for b in blocks}}
    out = str(tmp_path / "c")
    recipe = recipe_of(dataset, 20, str(path), out, trials)
    manifest = prepare(recipe.model_copy(update={"num_workers": 0}))
    assert trials == {"train": {"train": 6, "val": 4}}
    corpus = Corpus(out, ("val",))
    sample = corpus.read(0)
    place = int(corpus.index["start_bin"][0]) // 40 - 6
    np.testing.assert_array_equal(sample["spikes"][:30, :5], values["eval_spikes_heldin"][place])
    assert (sample["observed"][30:] == 0).all()  # eval_input has no bins behind trials
    assert manifest.sessions[0].windows["train"].kept == 6
    with pytest.raises(BadInput, match="which is mc_rtt in bins of 5 ms"):
        blocks_of(path, dataset, 5)


@pytest.mark.parametrize(
    ("name", "said"),
    [("mc_maze_smal", "did you mean mc_maze_small"), ("dmfc", "did you mean dmfc_rsg")],
)
def test_an_unknown_dataset_is_refused_with_the_nearest_name(name, said):
    with pytest.raises(BadInput, match=said):
        dataset_of(name)


def test_a_file_of_another_dataset_is_refused(folders):
    path = folders["mc_rtt"] / "sub-X_desc-train.nwb"
    with pytest.raises(BadInput, match=r"intervals/trials has no move_onset_time, which windows"):
        read_session(path, DATASETS["mc_maze"])

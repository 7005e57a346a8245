"""Clips as they are published: keys, lengths, feature files of three kinds, what is ambiguous."""

import fmri_files as files
import h5py
import numpy as np
import pytest
import torch

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.tasks.fmri.clips.bold_runs import BoldRuns
from ndt3_dist.tasks.fmri.clips.clip_reader import write_clips
from ndt3_dist.tasks.fmri.clips.clip_source import Clip, CorpusSource, TreeSource, hold_out
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree
from ndt3_dist.tasks.fmri.clips.sample_numbers import read_samples

STREAMS = {"video": "video", "audio": "audio", "text": "text#layers.20"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return files.write_tree(tmp_path_factory.mktemp("fmri"))


@pytest.fixture(scope="module")
def source(tree):
    return TreeSource(FeatureTree(tree / "features", STREAMS), BoldRuns(tree / "data"))


def test_runs_missing_repeated_and_short_are_what_they_are(source):
    assert source.subjects == list(files.SUBJECTS)
    assert (source.parcels, source.dims) == (files.PARCELS, files.DIMS)
    assert [c.id for c in source.clips if c.name == "life01"] == ["life01", "life01_run-2"]
    clip = next(c for c in source.clips if c.name == "s01e02a")
    bold = source.bold(clip, 10, 20)
    assert bold.shape == (10, 4, files.PARCELS)
    assert np.isnan(bold[:, 1]).all()  # sub-02 lacks it
    np.testing.assert_array_equal(bold[:, 2], files.bold_of("s01e02a", "sub-03")[10:20])
    second = next(c for c in source.clips if c.id == "life01_run-2")
    np.testing.assert_array_equal(
        source.bold(second, 0, 5)[:, 0], files.bold_of("life01", "sub-01", 2)[:5]
    )


def test_features_of_npy_pt_and_h5_lie_side_by_side(source):
    clip = source.clips[0]
    found = source.features(clip, clip.rows - 4, clip.rows + 3)
    true = np.concatenate([*files.features_of(clip.name, clip.rows + 1).values()], axis=1)
    last = np.minimum(np.arange(clip.rows - 4, clip.rows + 3), len(true) - 1)
    np.testing.assert_array_equal(found, true[last])  # the last row stands for those beyond


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_tensor_is_mapped_without_unpickling(tmp_path, dtype):
    values = torch.randn(7, 3, 2).to(dtype)
    (tmp_path / "s").mkdir()
    torch.save({"hidden": values}, tmp_path / "s" / "a.pt")
    tree = FeatureTree(tmp_path, {"s": "s"})
    np.testing.assert_array_equal(tree.read("a", 2, 5), values[2:5].float().flatten(1).numpy())
    torch.save(np.zeros(3), tmp_path / "s" / "b.pt")
    with pytest.raises(Exception, match="nothing of it was run"):
        FeatureTree(tmp_path, {"s": "s"}).opened("s", "b")


def spoiled(tmp_path, *names):
    for name in names:
        files.write_feature(tmp_path / "features" / name, np.zeros((9, 2), np.float32))
    return tmp_path / "features"


@pytest.mark.parametrize(
    ("names", "streams", "said"),
    [
        (
            ["v/a.npy", "v/friends_a.pt"],
            {"v": "v"},
            r"friends_a\.pt are both of clip a",
        ),
        (["v/a.npy"], {"v": "w"}, "no folder"),
        (["v/a.npy"], {"v": "../features/v"}, "leads out of"),
        (["v/a.h5"], {"v": "v"}, "has layers.20, layers.30; say which"),
        (["v/a.h5"], {"v": "v#x"}, "no array x; there are layers.20, layers.30"),
        (["v/a.txt.npz"], {"v": "v"}, "no .npy, .pt, .h5 below"),
    ],
)
def test_features_that_are_not_clear_are_named(tmp_path, names, streams, said):
    for name in names:
        if name.endswith("npz"):
            (tmp_path / "features" / "v").mkdir(parents=True)
            continue
        spoiled(tmp_path, name)
    with pytest.raises(BadInput, match=said):
        FeatureTree(tmp_path / "features", streams)


def test_a_file_is_of_the_clip_of_its_whole_name_alone(tmp_path):
    root = spoiled(tmp_path, "v/s01e01ab.npy", "v/x_s01e01a.npy", "v/s01e02a.npy")
    with pytest.raises(BadInput, match=r"stream v has no file of s01e01a "):
        FeatureTree(root, {"v": "v"}).check(["s01e01a", "s01e02a"])


def test_other_widths_lengths_and_objects_are_named(tmp_path, tree):
    root = spoiled(tmp_path, "v/a.npy", "v/b.npy")
    np.save(root / "v" / "b.npy", np.zeros((9, 3)))
    np.save(root / "v" / "c.npy", np.array([{}], object))
    found = FeatureTree(root, {"v": "v"})
    with pytest.raises(BadInput, match="3 columns, others of stream v have 2"):
        found.opened("v", "b")
    with pytest.raises(BadInput, match=r"c\.npy: not a \.npy array of numbers"):
        found.opened("v", "c")
    for clip in files.CLIPS:
        np.save(root / "v" / f"{clip}.npy", np.zeros((files.rows_of(clip), 2)))
    np.save(root / "v" / "s06e01a.npy", np.zeros((60, 2)))
    with pytest.raises(BadInput, match=r"clip s06e01a: 60 rows of features, \d+ samples"):
        TreeSource(FeatureTree(root, {"v": "v"}), BoldRuns(tree / "data"), ["s01", "bourne"])


def test_bold_in_another_form_is_named(tmp_path):
    path = tmp_path / "sub-01" / "func" / "sub-01_task-friends_bold.h5"
    path.parent.mkdir(parents=True)

    def refused(said, **arrays):
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key.replace("__", "-")] = value
        with pytest.raises(BadInput, match=said):
            BoldRuns(tmp_path)

    rows = np.zeros((20, 4), np.float32)
    refused("key 'other'", other=rows)
    refused(r"float32 \(20,\); expected floats", **{"task__s01e01a": rows[:, 0]})
    refused("3 parcels, others have 4", **{"task__s01e01a": rows, "task__s01e01b": rows[:, :3]})
    refused(
        "are both run 1 of life01",
        **{"ses__1_task__life01_run__1": rows, "ses__2_task__life01_run__1": rows},
    )
    path.write_text("/annex/objects/SHA256E-s1--x.h5")
    with pytest.raises(BadInput, match="fetch its content"):
        BoldRuns(tmp_path)
    with pytest.raises(BadInput, match="no BOLD of sub-09"):
        BoldRuns(tmp_path, ["sub-09"])


def test_two_showings_without_a_number_are_counted_by_session(tmp_path):
    path = tmp_path / "sub-01" / "func" / "sub-01_task-friends_bold.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for session in ("99", "100"):  # in the order of names it is the other way round
            file[f"ses-{session}_task-s01e02a"] = np.full((20, 4), float(session), np.float32)
    runs = BoldRuns(tmp_path)
    assert [runs.read("s01e02a", n, 0, 1)[0, 0, 0] for n in (1, 2)] == [99, 100]


def test_sample_numbers_are_read_by_name(tree):
    found = read_samples(tree / "data", files.SUBJECTS, ["s07"])
    assert found["sub-01"] == {
        "s07e01a": files.rows_of("s07e01a"),
        "s07e01b": files.rows_of("s07e01b") - 1,
    }
    assert set(read_samples(tree / "data", files.SUBJECTS)["sub-05"]) == {"chaplin1", "chaplin2"}
    assert set(read_samples(tree / "data", ["sub-01"], ["chaplin2"])["sub-01"]) == {"chaplin2"}
    with pytest.raises(BadInput, match="has no clip of wot"):
        read_samples(tree / "data", files.SUBJECTS, ["chaplin", "wot"])


def test_clips_are_held_out_by_name_and_showing():
    clips = [
        Clip("s06e01a", 1, 9),
        Clip("life01", 1, 9),
        Clip("life01", 2, 9),
        Clip("s01e01a", 1, 9),
    ]
    first, held = hold_out(clips, ["s06", "life*"], val_run=2)
    assert ([c.id for c in first], [c.id for c in held]) == (["s01e01a"], ["life01_run-2"])
    with pytest.raises(BadInput, match=r"0 held out; there are films s06, life, s01"):
        hold_out(clips, ["s6"])


def test_clips_through_preparation_are_the_same_clips(tree, source, tmp_path):
    written = write_clips(source, tmp_path / "clips")
    assert len(written) == len(source.clips)
    recipe = {
        "dataset": "algonauts",
        "source": str(tmp_path / "clips"),
        "pattern": "*.json",
        "out": str(tmp_path / "corpus"),
        "reader": "ndt3_dist.tasks.fmri.clips.clip_reader:read",
        "bin_size_ms": 1490,
        "window_ms": 29800,
        "splits": [
            {"match": "*-s06*", "intervals": {"val": [0, 1]}},
            {"match": "*", "intervals": {"train": [0, 1]}},
        ],
        "num_workers": 0,
    }
    prepare(Recipe.model_validate(recipe))
    found = CorpusSource(str(tmp_path / "corpus"), files.SUBJECTS, ["bourne"])
    assert (found.parcels, found.dims) == (source.parcels, source.dims)
    assert [c.id for c in found.clips] == [c.id for c in source.clips if c.film != "bourne"]
    for clip in found.clips:
        like = next(c for c in source.clips if c.id == clip.id)
        assert clip.rows == like.rows // 20 * 20  # the corpus keeps whole windows
        for start, stop in ((0, 7), (15, 45)):
            np.testing.assert_array_equal(
                found.features(clip, start, stop), source.features(like, start, stop)
            )
            np.testing.assert_array_equal(
                found.bold(clip, start, stop), source.bold(like, start, stop)
            )

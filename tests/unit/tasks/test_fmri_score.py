"""The official score by hand, what it refuses, and submissions that NumPy 1 and 2 both load."""

import pickle
import pickletools
import zipfile

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri import bold_submission
from ndt3_dist.tasks.fmri.bold_merge import MergePlan, merge
from ndt3_dist.tasks.fmri.clips.clip_names import clip_of, film_of, parse_key
from ndt3_dist.tasks.fmri.clips.numpy_pickle import read_dictionary
from ndt3_dist.tasks.fmri.parcel_networks import read_networks
from ndt3_dist.tasks.fmri.parcel_score import by_network, noise_ceiling, pearson, score


def values(seed: int, rows: int = 20, parcels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, parcels)).astype(np.float32)


def test_r_is_that_of_a_hand_worked_example():
    x, y = np.array([[1.0], [2], [3], [4]]), np.array([[2.0], [1], [4], [3]])
    assert pearson(x, y)[0] == pytest.approx(0.6)  # 3 / sqrt(5 * 5)


def test_clips_of_a_film_are_trimmed_and_laid_end_to_end():
    truth = {"sub-01": {"s07e01a": values(0), "s07e01b": values(1, 24), "chaplin1": values(2)}}
    truth["sub-02"] = {"s07e01a": values(3)}
    found = {
        subject: {clip: v + values(9, len(v)) for clip, v in clips.items()}
        for subject, clips in truth.items()
    }

    def together(of):
        clips = of["sub-01"]
        return np.concatenate([clips["s07e01a"][5:-5], clips["s07e01b"][5:-5]])

    got = score(found, truth)
    friends = [np.corrcoef(together(found)[:, p], together(truth)[:, p])[0, 1] for p in range(3)]
    assert got.by_parcel["sub-01"]["s07"] == pytest.approx(np.array(friends))
    assert set(got.films["sub-01"]) == {"s07", "chaplin"}
    first = (got.films["sub-01"]["s07"] + got.films["sub-01"]["chaplin"]) / 2
    assert got.subjects["sub-01"] == pytest.approx(first)
    assert got.value == pytest.approx((first + got.films["sub-02"]["s07"]) / 2)
    ends = {s: {c: v.copy() for c, v in clips.items()} for s, clips in found.items()}
    for clips in ends.values():
        for v in clips.values():
            v[:5], v[-5:] = 99, -99  # what is trimmed has no part
    assert score(ends, truth).value == got.value


EXPECTED = {"sub-01": {"s07e01a": 20}, "sub-02": {"s07e01a": 21}}


def good() -> dict:
    return {"sub-01": {"s07e01a": values(0)}, "sub-02": {"s07e01a": values(1, 21)}}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s.pop("sub-02"), "no clips of sub-02"),
        (lambda s: s["sub-02"].pop("s07e01a"), "sub-02 s07e01a is missing"),
        (lambda s: s.update({"sub-04": {}}), "'sub-04', which is no subject"),
        (lambda s: s["sub-01"].update(s07e09z=values(0)), "'s07e09z', which is not asked for"),
        (lambda s: s["sub-01"].update(s07e01a=values(0)[:-1]), r"\(19, 3\), expected \(20, 3\)"),
        (lambda s: s["sub-01"].update(s07e01a=values(0, 20, 4)), r"\(20, 4\), expected \(20, 3\)"),
        (lambda s: s["sub-01"].update(s07e01a=[[1.0] * 3] * 20), "is list, expected an array"),
        (lambda s: s["sub-01"].update(s07e01a=np.ones((20, 3), int)), "expected an array of fl"),
        (lambda s: s["sub-01"]["s07e01a"].__setitem__((0, 0), np.nan), "1 values that are not fin"),
        (lambda s: s["sub-01"]["s07e01a"].__setitem__((..., 0), 2), "does not vary in 1 parcels"),
    ],
)
def test_what_the_official_scorer_refuses_is_not_written(tmp_path, spoil, said):
    wrong = good()
    spoil(wrong)
    with pytest.raises(BadInput, match=said):
        bold_submission.write(wrong, EXPECTED, tmp_path / "s", 3)
    assert not list(tmp_path.iterdir())


def test_a_submission_that_is_no_dictionary_is_named():
    assert "is a list" in bold_submission.problems([], EXPECTED)[0]


def test_a_submission_loads_under_numpy_1_and_2(tmp_path):
    npy, zipped = bold_submission.write(good(), EXPECTED, tmp_path / "s", 3)
    found = np.load(npy, allow_pickle=True).item()  # as the scorer reads it; this test wrote it
    for subject, clips in good().items():
        np.testing.assert_array_equal(found[subject]["s07e01a"], clips["s07e01a"])
    with npy.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        data = file.read()
    names = {value for code, value, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    # Both are in NumPy 1 and 2; numpy._core is not in 1, which is what plain np.save writes.
    known = {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert names == known
    assert max(code.proto for code, *_ in pickletools.genops(data)) <= 3
    with zipfile.ZipFile(zipped) as archive:
        assert archive.namelist() == ["s.npy"]
        assert archive.read("s.npy") == npy.read_bytes()
    again = bold_submission.write(good(), EXPECTED, tmp_path / "again" / "s", 3)[1]
    assert again.read_bytes() == zipped.read_bytes()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_dictionaries_of_any_numpy_are_read_as_data(tmp_path, protocol):
    what = {"s07e01a": 460, "x": np.int64(3), "y": np.asfortranarray(values(0))}
    with (tmp_path / "a.npy").open("wb") as file:
        head = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, head)
        pickle.dump(np.array(what, dtype=object), file, protocol=protocol)
    found = read_dictionary(tmp_path / "a.npy")
    assert (found["s07e01a"], found["x"]) == (460, 3)
    np.testing.assert_array_equal(found["y"], what["y"])


class Hostile:
    def __reduce__(self):
        return print, ("it ran",)


def test_a_pickle_that_names_something_else_is_refused_and_not_run(tmp_path, capsys):
    np.save(tmp_path / "a.npy", {"s07e01a": Hostile()})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"names .*print"):
        read_dictionary(tmp_path / "a.npy")
    assert "it ran" not in capsys.readouterr().out
    np.save(tmp_path / "b.npy", values(0))
    with pytest.raises(BadInput, match="expected one dictionary"):
        read_dictionary(tmp_path / "b.npy")


def test_a_zip_has_exactly_one_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a.npy", b"")
        archive.writestr("b.npy", b"")
    with pytest.raises(BadInput, match=r"has 2 \.npy files"):
        bold_submission.read(tmp_path / "s.zip")


def test_films_and_networks_are_grafted(tmp_path):
    for name, number in (("base", 0.0), ("film", 10.0), ("visual", 20.0)):
        clips = {"sub-01": {"s07e01a": values(0) + number, "wot1": values(1) + number}}
        samples = {"sub-01": {"s07e01a": 20, "wot1": 20}}
        bold_submission.write(clips, samples, tmp_path / name, 3)
    (tmp_path / "parcels.tsv").write_text(
        "1\t7Networks_LH_Vis_1\t1\t2\t3\n2\t7Networks_LH_Default_1\t1\t2\t3\n"
        "3\t7Networks_RH_Vis_1\t1\t2\t3\n"
    )
    parts = {"base": "base.npy", "movies": {"wot": "film.zip"}, "networks": {"Vis": "visual.npy"}}
    plan = MergePlan(atlas="parcels.tsv", merge=parts)  # type: ignore[arg-type]
    found = merge(plan, tmp_path)["sub-01"]
    np.testing.assert_array_equal(
        found["s07e01a"] - values(0), np.float32([20, 0, 20]) + 0 * values(0)
    )
    np.testing.assert_allclose(found["wot1"] - values(1), np.tile([20, 10, 20], (20, 1)), atol=1e-5)
    for parts, said in (
        ({"base": "base.npy", "movies": {"pulpfiction": "film.npy"}}, "no clip of pulpfiction"),
        ({"base": "base.npy", "networks": {"Cont": "film.npy"}}, "no parcel of network Cont"),
    ):
        with pytest.raises(BadInput, match=said):
            merge(MergePlan(atlas="parcels.tsv", merge=parts), tmp_path)  # type: ignore[arg-type]


def test_networks_come_of_a_table(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("index\tnetwork\n1\tVis\n2\tLimbic\n")
    assert read_networks(table, 2) == ["Vis", "Limbic"]
    assert by_network(np.array([0.5, 0.1]), ["Vis", "Limbic"]) == {"Vis": 0.5, "Limbic": 0.1}
    with pytest.raises(BadInput, match="2 parcels, expected 1000"):
        read_networks(table, 1000)


def test_the_ceiling_is_what_the_signal_of_two_noisy_repeats_has_with_one():
    draw = np.random.default_rng(0)
    signal = draw.normal(size=(4000, 1))
    first, second = (signal + draw.normal(size=(4000, 1)) for _ in range(2))
    ceiling = noise_ceiling({"life01": first}, {"life01": second})
    assert ceiling[0] == pytest.approx(pearson(signal, first)[0], abs=0.03)  # sqrt(1/2)


def test_names_of_clips():
    assert parse_key("ses-003_task-s01e02a") == ("s01e02a", 3, None)
    assert parse_key("ses-010_task-life01_run-2") == ("life01", 10, 2)
    assert parse_key("ses-1000_task-figures12") == ("figures12", 1000, None)  # key[13:] fails here
    assert parse_key("task-x y") is None
    assert [film_of(c) for c in ("s07e01a", "life01", "wot2")] == ["s07", "life", "wot"]
    assert clip_of("friends_s01e02a") == clip_of("s01e02a") == "s01e02a"
    assert clip_of("not_s01e02a") == "not_s01e02a"

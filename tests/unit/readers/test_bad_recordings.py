"""Every kind of bad recording fails alone, with its file, the field and what is wrong with it."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from bad_nwb import KINDS, KINDS_BY_RECIPE, NO_FILES, VELOCITY, whole_files
from recordings import refusal

from ndt3_dist.errors import BadInput
from ndt3_dist.prep import job
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.shards.verify import verify_corpus


@pytest.fixture(scope="module")
def good(tmp_path_factory, write_session) -> Path:
    return write_session(tmp_path_factory.mktemp("good") / "good.nwb", seed=0)


def recipe_of(folder: Path, **keys) -> Recipe:
    paths = {"source": str(folder), "out": str(folder.parent / "corpus")}
    return Recipe.model_validate(
        {"dataset": "t", "covariates": {"path": VELOCITY}, **paths, **keys}
    )


def broken(good: Path, path: Path, change) -> Path:
    """A copy of the good file without session id (two of them might claim one session), changed."""
    shutil.copy(good, path)
    with h5py.File(path, "r+") as f:
        del f["general/session_id"]
        if change:
            change(f)
    return path


def break_all(good: Path, folder: Path) -> dict[str, str]:
    """A folder with one good recording and one of each bad kind; file -> what is to be said."""
    folder.mkdir()
    shutil.copy(good, folder / "good.nwb")
    expected = {}
    for kind, (change, words) in KINDS.items():
        expected[broken(good, folder / f"{kind}.nwb", change).name] = words
    for kind, (data, words) in whole_files(good.read_bytes()).items():
        (folder / f"{kind}.nwb").write_bytes(data)
        expected[f"{kind}.nwb"] = words
    for kind, (put, words) in NO_FILES.items():
        put(folder / f"{kind}.nwb")
        expected[f"{kind}.nwb"] = words
    return expected


@pytest.mark.timeout(120)
def test_each_kind_fails_alone_with_field_and_reason(good, tmp_path, without_ray, capsys):
    expected = break_all(good, tmp_path / "nwb")
    assert len(expected) > 60
    manifest = job.prepare(recipe_of(tmp_path / "nwb"))
    assert [s.source for s in manifest.sessions] == ["good.nwb"]
    assert manifest.sessions[0].windows["train"].kept == 6
    said = {f.source: f.error for f in manifest.failed}
    assert said.keys() == expected.keys()
    wrong = {k: said[k] for k, words in expected.items() if words not in said[k]}
    assert not wrong
    told = capsys.readouterr().err
    for name, reason in said.items():
        assert "\n" not in reason
        assert len(reason) < 600
        assert str(tmp_path) not in reason
        assert f"failed: {name}: " in told
    assert "Traceback" not in told
    assert verify_corpus(str(tmp_path / "corpus")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_refused_by_the_reader_in_one_line(good, tmp_path, kind):
    change, words = KINDS[kind]
    path, recipe = broken(good, tmp_path / "a.nwb", change), recipe_of(tmp_path)
    if kind in LATER:
        read_nwb(path, recipe)
    else:
        assert words in refusal(path, recipe)


LATER = {"burst", "too_short"}
"""What is found when a recording is cut, and not when it is read."""


@pytest.mark.parametrize("kind", KINDS_BY_RECIPE)
def test_what_a_recipe_asks_for_in_vain_is_refused_in_one_line(good, tmp_path, kind):
    change, words, keys = KINDS_BY_RECIPE[kind]
    path = broken(good, tmp_path / "a.nwb", change)
    assert words in refusal(path, recipe_of(tmp_path, **keys))


def test_a_missing_file_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.nwb")


@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_flipped_bytes_is_read_or_refused_but_never_worse(good, tmp_path, seed):
    """Most flips hit bytes that nobody reads; what they hit otherwise is one error by name."""
    data, draw = good.read_bytes(), np.random.default_rng(seed)
    whole, refused = read_nwb(good, recipe_of(tmp_path)), []
    for number in range(60):
        broken = bytearray(data)
        # Half of them in the first bytes, where the file's own structure lies.
        most = len(data) if number % 2 else 4096
        for at in draw.integers(0, most, draw.integers(1, 20)):
            broken[at] ^= 1 << int(draw.integers(8))
        path = tmp_path / "broken.nwb"
        path.write_bytes(broken)
        try:
            found = read_nwb(path, recipe_of(tmp_path))
            assert len(found.covariates) <= len(whole.covariates)
        except BadInput as e:
            refused.append(str(e))
    assert len(refused) > 5
    for message in refused:
        assert message.startswith(f"{tmp_path / 'broken.nwb'}: ")
        assert "\n" not in message

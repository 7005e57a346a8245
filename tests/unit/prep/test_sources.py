"""Which recordings a recipe takes, and what they are called."""

import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.sources import fetched, find_sources


def test_a_source_is_named_by_its_path_below_the_folder(tmp_path):
    for name in ("sub-B/b.nwb", "sub-A/a.nwb", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    found = find_sources(Recipe(dataset="t", source=str(tmp_path)))
    assert [(s.name, s.bytes) for s in found] == [("sub-A/a.nwb", 5), ("sub-B/b.nwb", 5)]
    (alone,) = find_sources(Recipe(dataset="t", source=str(tmp_path / "sub-A" / "a.nwb")))
    assert alone.name == "a.nwb"
    with fetched(alone) as (path, sha256):
        assert path == tmp_path / "sub-A" / "a.nwb"
        assert sha256.startswith("5994471abb01112a")


def test_a_source_without_a_recording_is_refused(tmp_path):
    for source, said in (
        ("", r"\(empty\)"),
        (str(tmp_path / "no"), "no such file"),
    ):
        with pytest.raises(BadInput, match=said):
            find_sources(Recipe(dataset="t", source=source))
    with pytest.raises(BadInput, match="no file matches"):
        find_sources(Recipe(dataset="t", source=str(tmp_path)))

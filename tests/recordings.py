"""Genuine recordings beside the project, and what reading a bad one says."""

from pathlib import Path

import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.read import read_recording

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"


def refusal(path: Path, recipe: Recipe | None = None) -> str:
    """What reading says: one BadInput, one line, the file's path in it once."""
    with pytest.raises(BadInput) as caught:
        read_recording(path, recipe or Recipe(dataset="t"))
    message = str(caught.value)
    assert type(caught.value) is BadInput
    assert message.count(str(path)) == 1
    assert "\n" not in message
    return message


def genuine(name: str) -> Path:
    """The path of a recording; the test is skipped where it is not there."""
    path = RECORDINGS / name
    if not path.is_file():
        pytest.skip(f"recording {name} is not in {RECORDINGS.parent.name}/{RECORDINGS.name}")
    return path

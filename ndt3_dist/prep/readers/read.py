"""The reader of a recipe: one file of this folder for each family of formats."""

from collections.abc import Callable
from pathlib import Path

from ndt3_dist.prep.readers.nwb import read_nwb
from ndt3_dist.prep.readers.recording import Recording
from ndt3_dist.prep.recipe import Recipe

READERS: dict[str, Callable[[str | Path, Recipe], Recording]] = {
    "nwb": read_nwb,
}
"""Name in a recipe -> what reads a file. Raises BadInput naming the file and the field."""


def read_recording(path: str | Path, recipe: Recipe) -> Recording:
    """Read one file as a recipe says."""
    return READERS[recipe.reader](path, recipe)

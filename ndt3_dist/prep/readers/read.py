"""The reader of a recipe: one file of this folder for each family of formats."""

from collections.abc import Callable
from pathlib import Path

from ndt3_dist.prep.readers.mat import read_mat
from ndt3_dist.prep.readers.nwb import read_nwb
from ndt3_dist.prep.readers.pyaldata import read_pyaldata
from ndt3_dist.prep.readers.recording import Recording
from ndt3_dist.prep.readers.rtt import read_rtt
from ndt3_dist.prep.readers.xds import read_xds
from ndt3_dist.prep.recipe import Recipe

READERS: dict[str, Callable[[str | Path, Recipe], Recording]] = {
    "mat": read_mat,
    "nwb": read_nwb,
    "pyaldata": read_pyaldata,
    "rtt": read_rtt,
    "xds": read_xds,
}
"""Name in a recipe -> what reads a file. Raises BadInput naming the file and the field."""


def read_recording(path: str | Path, recipe: Recipe) -> Recording:
    """Read one file as a recipe says."""
    return READERS[recipe.reader](path, recipe)

"""The reader of a recipe: one file of this folder for each family of formats."""

from collections.abc import Callable
from pathlib import Path

from ndt3_dist.readers.mat import read_mat
from ndt3_dist.readers.nwb import read_nwb
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.pyaldata import read_pyaldata
from ndt3_dist.readers.recording import Recording
from ndt3_dist.readers.rtt import read_rtt
from ndt3_dist.readers.xds import read_xds

READERS: dict[str, Callable[[str | Path, ReadOptions], Recording]] = {
    "mat": read_mat,
    "nwb": read_nwb,
    "pyaldata": read_pyaldata,
    "rtt": read_rtt,
    "xds": read_xds,
}
"""Name in a recipe -> what reads a file. Raises BadInput naming the file and the field."""


def read_recording(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read one file as a recipe says."""
    return READERS[recipe.reader](path, recipe)

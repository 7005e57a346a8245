"""The reader of a recipe: one file of this folder for each family of formats."""

import difflib
from collections.abc import Callable
from pathlib import Path

from ndt3_dist.config import import_call
from ndt3_dist.errors import BadInput
from ndt3_dist.readers.matlab.pyaldata import read_pyaldata
from ndt3_dist.readers.matlab.read_mat import read_mat
from ndt3_dist.readers.matlab.rtt import read_rtt
from ndt3_dist.readers.matlab.xds import read_xds
from ndt3_dist.readers.nwb.read_nwb import read_nwb
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording

READERS: dict[str, Callable[[str | Path, ReadOptions], Recording]] = {
    "mat": read_mat,
    "nwb": read_nwb,
    "pyaldata": read_pyaldata,
    "rtt": read_rtt,
    "xds": read_xds,
}
"""Name in a recipe -> what reads a file. Raises BadInput naming the file and the field."""


def reader_of(recipe: ReadOptions) -> Callable[[str | Path, ReadOptions], Recording]:
    """What reads the files of a recipe. Raises BadInput for a name that is none."""
    if ":" in recipe.reader:
        return import_call(recipe.reader, "reader")
    if recipe.reader not in READERS:
        near = difflib.get_close_matches(recipe.reader, READERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(READERS)}"
        raise BadInput(f"reader: no {recipe.reader!r} ({hint}), or package.module:function")
    return READERS[recipe.reader]


def read_recording(path: str | Path, recipe: ReadOptions) -> Recording:
    """Read one file as a recipe says."""
    return reader_of(recipe)(path, recipe)

"""Open MATLAB files, v5 and v7.3, as plain nested values, and trust none of them.

A numeric array keeps MATLAB's shape (never fewer than two dimensions), a string is a str, a struct
a dict, a struct array or cell array an object array of such values. Fields are named by dots
(xds.meta.monkey); of a v7.3 file only what is asked for is read. Refused, each with one line that
names the file and the field: data in other files, arrays out of all proportion to the file, deep
nesting, references that lead back to themselves, sparse arrays and objects of MATLAB classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.matlab.mat_v5 import V5File
from ndt3_dist.readers.matlab.mat_v73 import V73File
from ndt3_dist.readers.matlab.mat_values import MatFile
from ndt3_dist.readers.on_disk import away, stands_for

__all__ = ["MatFile", "open_mat"]


@contextmanager
def open_mat(path: str | Path) -> Iterator[MatFile]:
    """Open a file; whatever goes wrong within is one BadInput that names it."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: {away(path) or 'no such file'}")
    if not (is_hdf5 := _is_hdf5(path)) and (what := stands_for(path)):
        raise BadInput(f"{path}: not a MATLAB file ({what}); expected save -v7 or -v7.3")
    try:
        mat = V73File(path) if is_hdf5 else V5File(path)
        try:
            yield mat
        finally:
            mat.close()
    except BadInput as e:
        message = str(e)
        raise BadInput(message if str(path) in message else f"{path}: {message}") from e
    except (Exception, MemoryError) as e:
        # h5py raises anything from KeyError to RuntimeError on a damaged file.
        reason = " ".join(str(e).split())[:200]
        raise BadInput(f"{path}: not a readable MATLAB file ({type(e).__name__}: {reason})") from e


def _is_hdf5(path: Path) -> bool:
    import h5py

    return bool(h5py.is_hdf5(path))

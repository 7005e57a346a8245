"""Arrays from .npy bytes, fast and without ever unpickling."""

import functools
import io
import math

import numpy as np

from ndt3_dist.errors import ShardCorrupt


def parse_npy(data: bytes, where: str, begin: int = 0, size: int | None = None) -> np.ndarray:
    """An array from .npy bytes, over those bytes; object arrays and trailing bytes are refused.

    Args:
        data: Holds the .npy file.
        where: For errors.
        begin, size: Of the file in `data`; all of it, by default.
    """
    size = len(data) - begin if size is None else size
    try:
        # Windows of one session share their header to the last byte.
        start = begin + 10 + data[begin + 8] + 256 * data[begin + 9]
        shape, dtype, length = npy_header(data[begin:start])
        if start - begin + length == size:
            return np.ndarray(shape, dtype, data, start)
    except (ValueError, IndexError, TypeError):
        pass  # not what the fast way reads
    return _parse_any_npy(data[begin : begin + size], where)


@functools.lru_cache(4096)
def npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and bytes of the array behind a header of version 1.0.

    Raises:
        ValueError: It is another header, of objects, or of Fortran's order.
    """
    buffer = io.BytesIO(header)
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError("a header of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    if fortran or dtype.hasobject:
        raise ValueError("an array of another kind")
    return shape, dtype, math.prod(shape) * dtype.itemsize


def _parse_any_npy(data: bytes, where: str) -> np.ndarray:
    buffer = io.BytesIO(data)
    try:
        array = np.lib.format.read_array(buffer, allow_pickle=False)  # np.load also takes zips
    except (ValueError, EOFError) as e:
        raise ShardCorrupt(f"{where}: not a readable .npy array ({e})") from e
    if buffer.tell() != len(data):
        raise ShardCorrupt(f"{where}: {len(data) - buffer.tell()} bytes after its .npy array")
    return array

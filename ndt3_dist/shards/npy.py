"""Arrays from .npy bytes, fast and without ever unpickling."""

import functools
import io
import math

import numpy as np

from ndt3_dist.errors import ShardCorrupt


def parse_npy(data: bytes | memoryview, where: str) -> np.ndarray:
    """An array from .npy bytes, over those bytes; object arrays and trailing bytes are refused."""
    # Version, length and text of the header: windows of one session share it to the last byte.
    start = 10 + int.from_bytes(data[8:10], "little") if data[6:7] == b"\x01" else len(data)
    try:
        shape, fortran, dtype = npy_header(bytes(data[:start]))
        count = math.prod(shape)
        if fortran or dtype.hasobject or start + count * dtype.itemsize != len(data):
            raise ValueError("not what the fast way reads")
        return np.frombuffer(data, dtype, count, start).reshape(shape)
    except ValueError:
        return _parse_any_npy(data, where)


@functools.lru_cache(4096)
def npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type that a header of version 1.0 states; ValueError for any other bytes."""
    buffer = io.BytesIO(header)
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError("a header of another version")
    return np.lib.format.read_array_header_1_0(buffer)


def _parse_any_npy(data: bytes | memoryview, where: str) -> np.ndarray:
    buffer = io.BytesIO(data)
    try:
        array = np.lib.format.read_array(buffer, allow_pickle=False)  # np.load also takes zips
    except (ValueError, EOFError) as e:
        raise ShardCorrupt(f"{where}: not a readable .npy array ({e})") from e
    if buffer.tell() != len(data):
        raise ShardCorrupt(f"{where}: {len(data) - buffer.tell()} bytes after its .npy array")
    return array

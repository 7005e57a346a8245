"""Heads of members and arrays are those of tarfile and numpy, byte for byte."""

import io
import random
import tarfile

import numpy as np
import pytest

from ndt3_dist.shards.write import member_header, npy_bytes


def test_a_member_header_is_tarfiles():
    draw = random.Random(0)
    for _ in range(500):
        name = "".join(draw.choice("abcDEF-_0123.") for _ in range(draw.randrange(100))) + "x"
        size = draw.choice([0, 1, 511, 10 ** draw.randrange(10), 8**11 - 1])
        info = tarfile.TarInfo(name)
        info.size = size
        assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    for name, size in (("x" * 101, 1), ("x", 8**11), ("é", 1)):
        with pytest.raises(ValueError):
            member_header(name, size)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((100, 96), np.uint8),
        np.ones(0, np.float32),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.zeros(3, [("a", "<u4"), ("b", "<u8", (4,))]),
    ],
)
def test_an_array_is_written_as_numpy_writes_it(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
    assert npy_bytes(array) == buffer.getvalue()

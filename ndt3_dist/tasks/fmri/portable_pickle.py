"""Dictionaries of arrays as .npy files that NumPy 1 and 2 both load.

NumPy 2 pickles arrays as built by `numpy._core`, which NumPy 1 does not have. So the few
instructions are written here, with names that both know; nothing else is ever in the file.
"""

import io
import pickle
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

REBUILD = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
"""An empty array of bytes, whose state says what it is."""
DTYPE = {
    "float32": b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R(K\x03X\x01\x00\x00\x00<",
    "float64": b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R(K\x03X\x01\x00\x00\x00<",
}
DTYPE_STATE = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
OBJECT = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|"
OBJECT_STATE = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"


def whole(number: int) -> bytes:
    """Of 31 bits."""
    return b"J" + struct.pack("<i", number)


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def array(values: np.ndarray) -> Iterator[bytes | memoryview]:
    """The instructions that build a float array, in C order."""
    values = np.ascontiguousarray(values)
    yield REBUILD + b"(K\x01(" + b"".join(map(whole, values.shape)) + b"t"
    yield DTYPE[values.dtype.name] + DTYPE_STATE + b"\x89B" + struct.pack("<I", values.nbytes)
    yield values.reshape(-1).view(np.uint8).data
    yield b"tb"


def plain(value: Any) -> Iterator[bytes | memoryview]:
    """The instructions for a dictionary, an array, or a whole number."""
    if isinstance(value, Mapping):
        yield b"}("
        for key, inner in value.items():
            yield text(key)
            yield from plain(inner)
        yield b"u"
    elif isinstance(value, np.ndarray):
        yield from array(value)
    else:
        yield whole(int(value))


def npy_pieces(value: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """The bytes of a .npy file with a dictionary in it, piece by piece.

    Args:
        value: Of text to dictionaries, float32 or float64 arrays of less than 4 GB, or whole
            numbers.
    """
    head = io.BytesIO()
    shape: dict[str, Any] = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(head, shape)
    yield head.getvalue()
    yield pickle.PROTO + b"\x03" + REBUILD + b"(K\x01)" + OBJECT + OBJECT_STATE + b"\x89]("
    yield from plain(value)
    yield b"etb."

"""Chunks of a Zarr array unpacked, to a size that is known before anything is.

Compressors are those of this file alone, whatever a store names: no codec is looked up, and none
that builds objects (pickle) is here. Each is told the most that it may write.
"""

import bz2
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers import hdf5

TEXTS = ("vlen-utf8", "vlen-bytes")
"""Filters that make bytes of strings: their number, then the length and the bytes of each."""


def unpack(data: bytes, codec: dict[str, Any] | None, size: int | None, field: str) -> bytes:
    """The bytes of a chunk as they were before its compressor.

    Args:
        codec: Of the array's metadata; None where there is none.
        size: Bytes that the chunk must have; None where only its content says, as of text.
    Raises:
        BadInput: It has others, unpacks out of proportion, or is packed by something else.
    """
    hdf5.refuse_bomb(field, size or 0, len(data))
    most = size if size is not None else max(hdf5.FREE_BYTES, hdf5.MOST_RATIO * len(data))
    name = str(codec.get("id")) if codec else ""
    if not name:
        found = data
    elif name in ("zlib", "gzip"):
        found = zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(data, most + 1)
    elif name == "bz2":
        found = bz2.BZ2Decompressor().decompress(data, most + 1)
    elif name in DECLARED:
        says = DECLARED[name](data)
        if says > most or (size is not None and says != size):
            raise wrong_size(field, says, size)
        found = decompressor(name, field)(data)
    else:
        raise refused(field, name)
    if len(found) > most or (size is not None and len(found) != size):
        raise wrong_size(field, len(found), size)
    return bytes(found)


def decompressor(name: str, field: str) -> Callable[[bytes], bytes]:
    try:
        from numcodecs import blosc, lz4, zstd  # pyright: ignore
    except ImportError as e:
        raise BadInput(
            f"{field} is compressed by {name}; `pip install numcodecs` or ndt3_dist[zarr] reads it"
        ) from e
    return {"blosc": blosc, "lz4": lz4, "zstd": zstd}[name].decompress


def refused(field: str, name: str) -> BadInput:
    """The error for a codec that is not read."""
    why = "runs what a file says" if "pickle" in name.lower() else "is not read"
    return BadInput(
        f"{field} is packed by the codec {ascii(name)[1:-1][:32]}, which {why}; refused (expected "
        "blosc, zstd, lz4, zlib, gzip, bz2, shuffle or text)"
    )


def wrong_size(field: str, found: int, size: int | None) -> BadInput:
    if size is None:
        return BadInput(f"{field} has a chunk of text of {found / 1e6:.0f} MB; refused")
    return BadInput(f"{field} has a chunk of {found} bytes; expected {size}: it is damaged")


def zstd_bytes(data: bytes) -> int:
    """What the first frame of zstd data says of its content; too much where it says nothing.

    Source: RFC 8878, 3.1.1.1.
    """
    kind = data[4]
    alone = kind >> 5 & 1  # a single segment
    width = (alone, 2, 4, 8)[kind >> 6]
    at = 6 - alone + (0, 1, 2, 4)[kind & 3]
    if not width:
        return hdf5.MOST_BYTES + 1
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


DECLARED: dict[str, Callable[[bytes], int]] = {
    "blosc": lambda data: int.from_bytes(data[4:8], "little"),
    "lz4": lambda data: int.from_bytes(data[:4], "little"),
    "zstd": zstd_bytes,
}
"""Compressor -> the bytes that packed data says it unpacks to."""


def unshuffle(data: bytes, width: int, field: str) -> bytes:
    """The bytes of values that lie first byte by first byte, then second by second, ..."""
    if width < 1 or len(data) % width:
        raise BadInput(f"{field} is shuffled by {width} bytes, which its chunks are not; damaged")
    return np.frombuffer(data, np.uint8).reshape(width, -1).T.tobytes()


def texts(data: bytes, count: int, field: str) -> list[str]:
    """The strings of a chunk, of which there must be so many."""
    damaged = BadInput(f"{field} has a chunk that is no text of {count} strings; it is damaged")
    if int.from_bytes(data[:4], "little") != count or len(data) < 4 * (count + 1):
        raise damaged
    found, at = [], 4
    for _ in range(count):
        begin = at + 4
        at = begin + int.from_bytes(data[at:begin], "little")
        if at > len(data):
            raise damaged
        found.append(data[begin:at].decode("utf-8", "replace"))
    return found

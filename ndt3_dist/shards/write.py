"""Write samples as plain WebDataset tars with a fixed-width index; same samples, same bytes.

Headers are plain ustar with no times, owners or modes of their own, so that the bytes of a shard
are a function of its samples and their order.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from ndt3_dist import storage
from ndt3_dist.shards.index import as_version_1, index_type

BLOCK = 512


def npy_bytes(array: np.ndarray) -> bytes:
    """`array` as a version-1 .npy file; object arrays are refused."""
    if array.dtype.hasobject:
        raise ValueError("object arrays cannot be stored without pickle")
    return npy_header(array.dtype, array.shape) + np.ascontiguousarray(array).tobytes()


@lru_cache(maxsize=1024)
def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The head of a version-1 .npy file: most windows of a corpus share a few."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {**described, "shape": shape})
    return buffer.getvalue()


def member_header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of a regular file; ValueError where the name does not fit.

    That of tarfile, whose making is most of what a small member costs: name, size and the sum of
    all bytes are put into one that it made.
    """
    encoded = name.encode("ascii")
    if len(encoded) > 100 or not 0 <= size < 8**11:
        raise ValueError(f"{name}: a name of up to 100 characters and less than 8 GiB fit a header")
    head = bytearray(EMPTY_HEADER)
    head[: len(encoded)] = encoded
    head[124:135] = b"%011o" % size
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


EMPTY_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def pack_sample(key: str, members: dict[str, bytes]) -> tuple[bytes, dict[str, int], int]:
    """Lay the members of one sample out as tar bytes.

    Args:
        key: Sample key; member files are `key.<stream>.npy`.
        members: Bytes of each stream that the sample has, in the corpus's order of streams.
    Returns:
        The tar bytes, the offset of each stream's own bytes inside them, and the crc32 over all
        members.
    """
    parts, offsets, position, crc = [], {}, 0, 0
    for stream, data in members.items():
        padding = -len(data) % BLOCK
        parts += [member_header(f"{key}.{stream}.npy", len(data)), data, bytes(padding)]
        offsets[stream] = position + BLOCK
        position += BLOCK + len(data) + padding
        crc = zlib.crc32(data, crc)
    return b"".join(parts), offsets, crc


def write_shard(
    tar_path: str,
    index_path: str,
    samples: Iterable[tuple[str, dict, dict]],
    streams: Sequence[str],
    version_1: Mapping[int, tuple[int, int]] | None = None,
) -> dict:
    """Write one shard and its index.

    Args:
        tar_path: Where the tar goes.
        index_path: Where its index goes, after the tar.
        samples: (key, members, fields) of each sample in order: `members` as for `pack_sample`,
            `fields` session, start_bin, bins, and `values`: valid values by stream.
        streams: That the corpus has, in order.
        version_1: Write an index of version 1: neural tokens and covariates of a bin by session.
    Returns:
        bytes, sha256, index_sha256, samples of what was written; in version 1 also tokens.
    """
    records, digest = [], hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        position = 0
        for key, members, fields in samples:
            held = {s: members[s] for s in streams if s in members}
            data, offsets, crc = pack_sample(key, held)
            record = np.zeros((), index_type(tuple(streams)))
            for name in ("session", "start_bin", "bins"):
                record[name] = fields.get(name, 0)
            record["crc32"] = crc
            for stream, offset in offsets.items():
                found = position + offset, len(held[stream]), fields["values"][stream]
                record[stream]["offset"], record[stream]["size"], record[stream]["values"] = found
            records.append(record)
            position += len(data)
            digest.update(data)
            yield data
        # Two zero blocks end a tar; readers also expect a multiple of 20 blocks.
        end = bytes(2 * BLOCK + -(position + 2 * BLOCK) % (20 * BLOCK))
        digest.update(end)
        yield end

    # A disk takes samples as they come; a store may ask for all of them again.
    made = list(pieces()) if storage.is_remote(tar_path) else pieces()
    written = storage.write_pieces(tar_path, lambda: made)
    index, found = np.array(records, index_type(tuple(streams))), {}
    if version_1 is not None:
        index = as_version_1(index, version_1)
        found["tokens"] = int(index["tokens"].sum())
    index_bytes = npy_bytes(index)
    storage.write_bytes(index_path, index_bytes)
    return {
        "bytes": written,
        "sha256": digest.hexdigest(),
        "index_sha256": storage.sha256_bytes(index_bytes),
        "samples": len(index),
        **found,
    }

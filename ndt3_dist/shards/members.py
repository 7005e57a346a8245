"""The members of one window out of a shard or a spool, to be written into another."""

import zlib

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.manifest import MEMBERS

DESCRIPTION = (
    "start_bin",
    "bins",
    "tokens",
    "context_tokens",
    "spike_targets",
    "covariate_targets",
)
"""Index fields that describe a window whatever file it lies in."""


def read_members(tar: str, entry: np.ndarray) -> dict[str, bytes]:
    """Bytes of each stream of a window, read at once.

    Args:
        tar: Path or URL.
        entry: Its index record.
    Raises:
        ShardCorrupt: They are not those that the record has the crc32 of.
    """
    offsets, sizes = entry["offsets"].tolist(), entry["sizes"].tolist()
    there = [(s, o, n) for s, o, n in zip(MEMBERS, offsets, sizes, strict=True) if n]
    first, last = there[0][1], there[-1][1] + there[-1][2]
    data = storage.read_range(tar, first, last - first).tobytes()
    members = {stream: data[o - first : o - first + n] for stream, o, n in there}
    if zlib.crc32(b"".join(members.values())) != entry["crc32"]:
        raise ShardCorrupt(
            f"{tar}: changed since it was written; restore it, or remove it and prepare anew"
        )
    return members

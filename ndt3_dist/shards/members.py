"""The members of one window out of a shard or a spool, to be written into another."""

import zlib

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.index import streams_of


def read_members(tar: str, entry: np.ndarray) -> dict[str, bytes]:
    """Bytes of each stream of a window, read at once.

    Args:
        tar: Path or URL.
        entry: Its index record.
    Raises:
        ShardCorrupt: They are not those that the record has the crc32 of.
    """
    members = ((s, int(entry[s]["offset"]), int(entry[s]["size"])) for s in streams_of(entry))
    there = [(stream, offset, size) for stream, offset, size in members if size]
    first, last = there[0][1], there[-1][1] + there[-1][2]
    data = storage.read_range(tar, first, last - first).tobytes()
    members = {stream: data[o - first : o - first + n] for stream, o, n in there}
    if zlib.crc32(b"".join(members.values())) != entry["crc32"]:
        raise ShardCorrupt(
            f"{tar}: changed since it was written; restore it, or remove it and prepare anew"
        )
    return members


def described(entry: np.ndarray) -> dict:
    """What of a record holds whatever file its window lies in, as `write_shard` takes it."""
    values = {stream: int(entry[stream]["values"]) for stream in streams_of(entry)}
    return {"start_bin": int(entry["start_bin"]), "bins": int(entry["bins"]), "values": values}

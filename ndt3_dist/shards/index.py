"""Index records: where the streams of each window lie in its shard, and how much they hold.

A record has the session, first bin, length and crc32 of a window, and for each stream, under its
name, the offset and size of its member and how many of its values are valid. Version 2 stores just
that; version 1 stored other fields for four fixed streams, from and to which it is converted.
"""

import functools
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from ndt3_dist.errors import ShardCorrupt

MEMBER = np.dtype([("offset", "<u8"), ("size", "<u4"), ("values", "<u4")])
"""Of one stream of a window; all 0 where the window does not have it."""
HEAD = [("session", "<u4"), ("start_bin", "<u4"), ("bins", "<u4"), ("crc32", "<u4")]
"""Row of the session table; first bin, counted from the session's own first; bins; over all members
in the order of streams."""
STREAMS_1 = ("spikes", "covariates", "constraint", "return")
"""The streams that version 1 can hold, the last two only where recorded."""
CHANNELS_PER_TOKEN = 32
"""Channels of a neural token as version 1 counted them (NDT3's neurons_per_token)."""
INDEX_1 = np.dtype(
    [
        ("session", "<u4"),
        ("start_bin", "<u4"),
        ("bins", "<u4"),
        ("tokens", "<u4"),
        ("context_tokens", "<u4"),
        ("spike_targets", "<u4"),
        ("covariate_targets", "<u4"),
        ("crc32", "<u4"),
        ("offsets", "<u8", (len(STREAMS_1),)),
        ("sizes", "<u4", (len(STREAMS_1),)),
    ]
)
"""What version 1 stores."""


@functools.lru_cache
def index_type(streams: Sequence[str]) -> np.dtype:
    """The record of a corpus with these streams."""
    return np.dtype([*HEAD, *((name, MEMBER) for name in streams)])


def streams_of(index: np.ndarray) -> tuple[str, ...]:
    """Names of the streams that an index has columns of."""
    return (index.dtype.names or ())[len(HEAD) :]


@functools.lru_cache
def record_struct(streams: int) -> struct.Struct:
    """One record as plain numbers: quicker than numpy for one."""
    return struct.Struct("<4I" + "QII" * streams)


def opened(stored: np.ndarray, version: int, streams: Sequence[str], where: str) -> np.ndarray:
    """An index as it is used, from what is stored.

    Raises:
        ShardCorrupt: It has other fields than its version and streams ask for.
    """
    expected = INDEX_1 if version == 1 else index_type(tuple(streams))
    if stored.dtype != expected:
        raise ShardCorrupt(f"{where}: not an index of corpus version {version} with its streams")
    if version != 1:
        return stored
    index = np.zeros(len(stored), index_type(STREAMS_1))
    for name, _ in HEAD:
        index[name] = stored[name]
    for i, name in enumerate(STREAMS_1):
        index[name]["offset"], index[name]["size"] = stored["offsets"][:, i], stored["sizes"][:, i]
    has_constraint, has_return = (stored["sizes"][:, i] > 0 for i in (2, 3))
    returns = np.where(has_return, stored["bins"], 1)
    index["spikes"]["values"] = stored["spike_targets"]
    index["covariates"]["values"] = stored["covariate_targets"]
    index["constraint"]["values"] = 3 * (stored["context_tokens"] - returns) * has_constraint
    index["return"]["values"] = 2 * returns * has_return
    return index


def as_version_1(index: np.ndarray, sizes: Mapping[int, tuple[int, int]]) -> np.ndarray:
    """What version 1 stores of an index whose streams it can hold.

    Args:
        index: As it is used, (samples,).
        sizes: Neural tokens of a bin (of 32 channels) and covariates of each session, by row.
    """
    names, stored = streams_of(index), np.zeros(len(index), INDEX_1)
    for name, _ in HEAD:
        stored[name] = index[name]
    for i, name in enumerate(STREAMS_1):
        if name in names:
            stored["offsets"][:, i] = index[name]["offset"]
            stored["sizes"][:, i] = index[name]["size"]
    patches, dims = np.array([sizes[s] for s in index["session"].tolist()]).reshape(-1, 2).T
    constraints, returns = np.maximum(dims, 1), np.ones_like(dims)
    if "constraint" in names:
        recorded = index["constraint"]["values"] // 3
        constraints = np.where(index["constraint"]["size"] > 0, recorded, constraints)
    if "return" in names:
        returns = np.where(index["return"]["size"] > 0, index["return"]["values"] // 2, returns)
    stored["context_tokens"] = constraints + returns
    stored["tokens"] = index["bins"] * (patches + dims) + stored["context_tokens"]
    stored["spike_targets"] = index["spikes"]["values"]
    stored["covariate_targets"] = index["covariates"]["values"]
    return stored


def count_values(array: np.ndarray, changes: bool = False) -> int:
    """How many values of a stream's window are valid, as its record says.

    Args:
        array: (rows, ...); NaN where not valid.
        changes: Only those of rows that differ from the row before, the first included.
    """
    if changes and len(array) > 1:
        rows = array.reshape(len(array), -1)
        array = array[np.r_[True, (rows[1:] != rows[:-1]).any(axis=1)]]
    return int(np.isfinite(array).sum()) if array.dtype.kind == "f" else array.size

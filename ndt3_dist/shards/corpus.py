"""Read samples of a corpus by index, each byte checked before it is used.

A sample is found by the offsets of its shard's index and verified by the crc32 recorded there; a
shard's length is checked when it is opened. Nothing is unpickled and no name inside a tar is used.
"""

import bisect
import errno
import functools
import os
import threading

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import ManifestMismatch, ShardCorrupt, ShardLost
from ndt3_dist.shards.cache import Cache, default_cache
from ndt3_dist.shards.index import index_type, opened, record_struct
from ndt3_dist.shards.manifest import (
    Manifest,
    Shard,
    index_path,
    read_manifest,
    sample_key,
    shard_path,
)
from ndt3_dist.shards.npy import parse_npy

try:  # three times as fast
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

TRIES = 3
"""To open a remote shard that goes from the cache again, or lies damaged in it."""
MAX_OPEN = 512
"""Shards kept open at once."""
MAX_INDEXES = 1024
"""Indexes kept in memory at once; one of a shard of 32 MB has about 200 kB."""


Sample = dict[str, np.ndarray]
"""One window: the array of each stream that it has, (rows, ...), such as spikes (bins, channels)
uint8 and covariates (bins, dims) float32, NaN where not valid."""


def read_index(
    corpus: str, manifest: Manifest, shard: Shard, cache: Cache | None = None
) -> np.ndarray:
    """The index of a shard, (samples,) of `index_type`; its hash must be the manifest's."""
    path = index_path(corpus, shard.name)
    try:
        if storage.is_remote(path) and cache:
            data = cache.read(path, shard.index_sha256)
        else:
            data = storage.read_bytes(path)
    except FileNotFoundError as e:
        raise ShardCorrupt(f"{path}: missing; restore it or prepare the corpus anew") from e
    if storage.sha256_bytes(data) != shard.index_sha256:
        raise ShardCorrupt(f"{path}: its sha256 is not the manifest's; prepare the corpus anew")
    index = opened(parse_npy(data, path), manifest.version, manifest.members, path)
    if len(index) != shard.samples:
        raise ShardCorrupt(f"{path}: {len(index)} records, the manifest has {shard.samples}")
    has = np.array([index[name]["size"] > 0 for name in manifest.members])
    if not (has[:2].all() if manifest.version == 1 else has.any(axis=0).all()):
        raise ShardCorrupt(f"{path}: has windows without their streams; prepare the corpus anew")
    return index


class LocalShard:
    """A file that is closed when the last thread that reads from it has let go of it."""

    def __init__(self, path: str):
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "fd"):
            os.close(self.fd)


class Corpus:
    """A corpus opened for reading: its manifest, the index of one or more splits, its shards.

    Attributes:
        manifest: The checked manifest.
        splits: Those that are opened.
        shards: Their shards. Samples are numbered through them.
        first: Number of the first sample of each shard, and of samples, (shards + 1,).
    """

    def __init__(self, path: str, splits: tuple[str, ...] = ("train",), cache: Cache | None = None):
        """
        Args:
            path: Folder or s3:// URL.
            splits: To open.
            cache: Where files of a remote corpus are kept; by default `default_cache()`.
        """
        self.path = str(path).rstrip("/")
        self.cache = cache or default_cache()
        with log.waiting(f"opening {self.path}"):
            self.manifest: Manifest = read_manifest(self.path)
        self.splits = splits
        self.shards = [s for s in self.manifest.shards if s.split in splits]
        self.first = np.concatenate([[0], np.cumsum([s.samples for s in self.shards], dtype=int)])
        if not self.first[-1]:
            there = ", ".join(dict.fromkeys(s.split for s in self.manifest.shards)) or "none"
            raise ManifestMismatch(
                f"{self.path}: no window in split {' or '.join(splits)}, there are: {there} "
                "(--split of programs, data.fit of a fine-tune); the manifest's `windows` say what "
                "was rejected and why"
            )
        self._firsts: list[int] = self.first.tolist()
        self._streams = self.manifest.members
        self._begin()

    def _begin(self) -> None:
        """With nothing read yet."""
        self._record = record_struct(len(self._streams))
        self.records_of = functools.lru_cache(MAX_INDEXES)(self._records_of)
        self._opened: dict[int, LocalShard] = {}
        self._lock = threading.Lock()
        self._lost: dict[int, str] = {}

    def __getstate__(self) -> dict:
        """For another process, which opens files of its own."""
        own = ("_record", "records_of", "_opened", "_lock", "_lost", "index")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._begin()

    def __len__(self) -> int:
        return int(self.first[-1])

    @functools.cached_property
    def index(self) -> np.ndarray:
        """Records of all samples, (samples,) of `index_type`, in memory together."""
        shards = log.progress(range(len(self.shards)), f"opening {self.path}, shards")
        return np.concatenate([self.records_of(s) for s in shards])

    def _records_of(self, shard: int) -> np.ndarray:
        """Records of the samples of a shard, verified. Raises ShardCorrupt."""
        return read_index(self.path, self.manifest, self.shards[shard], self.cache)

    def shard_of(self, numbers: int | np.ndarray) -> np.ndarray:
        """Position in `shards` of samples."""
        return np.searchsorted(self.first, numbers, "right") - 1

    def record(self, number: int) -> np.ndarray:
        """The record of one sample, () of `index_type`."""
        shard = bisect.bisect_right(self._firsts, number) - 1
        return self.records_of(shard)[number - self._firsts[shard]]

    def records(self, numbers: np.ndarray) -> np.ndarray:
        """Records of some samples, (samples,) of `index_type`."""
        found, shards = np.empty(len(numbers), index_type(self._streams)), self.shard_of(numbers)
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            found[mine] = self.records_of(shard)[numbers[mine] - self.first[shard]]
        return found

    def key(self, number: int) -> str:
        record = self.record(number)
        session = self.manifest.sessions[int(record["session"])]
        return sample_key(session.id, int(record["start_bin"]))

    def where(self, number: int) -> str:
        """Shard and window of a sample, for people."""
        shard = self.shards[int(self.shard_of(number))]
        return f"{shard_path(self.path, shard.name)}: window {self.key(number)}"

    def session_of(self, number: int):
        return self.manifest.sessions[int(self.record(number)["session"])]

    def read(self, number: int) -> Sample:
        """Read and verify one sample. Raises ShardCorrupt naming shard and window."""
        try:
            return self._read(number)
        except ShardLost:
            raise
        except ShardCorrupt:
            if not storage.is_remote(self.path):
                raise
            # The shard had its hash when it was fetched: this disk has gone bad, not the corpus.
            shard = int(self.shard_of(number))
            self.cache.drop(self.shards[shard].sha256)
            with self._lock:
                self._opened.pop(shard, None)
            return self._read(number)

    def _read(self, number: int) -> Sample:
        shard = bisect.bisect_right(self._firsts, number) - 1
        at = self._record.size * (number - self._firsts[shard])
        _, _, _, expected, *members = self._record.unpack_from(self.records_of(shard), at)  # pyright: ignore
        offsets, sizes = members[::3], members[1::3]
        # The members lie one behind the other: one read for all.
        there = [i for i, size in enumerate(sizes) if size]
        begin, last = offsets[there[0]], there[-1]
        size = offsets[last] + sizes[last] - begin
        data = self._bytes(shard, begin, size)
        if len(data) != size:
            raise ShardCorrupt(f"{self.where(number)} lies beyond the end of the shard")
        view, crc, sample = memoryview(data), 0, {}
        for i in there:
            first = offsets[i] - begin
            crc = crc32(view[first : first + sizes[i]], crc)
        if crc != expected:
            raise ShardCorrupt(
                f"{self.where(number)} has crc32 {crc:08x}, its index {expected:08x}; "
                "restore the shard or prepare the corpus anew"
            )
        try:
            for i in there:
                name = self._streams[i]
                sample[name] = parse_npy(data, name, offsets[i] - begin, sizes[i])
        except ShardCorrupt as e:
            raise ShardCorrupt(f"{self.where(number)}: {e}") from e
        return sample

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        """Part of a shard; shorter where the shard ends before."""
        opened = self._opened.get(shard)
        if opened is None:
            opened = self._open(shard)
            with self._lock:
                self._opened[shard] = opened
                while len(self._opened) > MAX_OPEN:
                    del self._opened[next(iter(self._opened))]
        try:
            # Not mapped: reading a mapped file that is cut meanwhile kills the process.
            return os.pread(opened.fd, size, offset)
        except OSError as e:
            raise ShardLost(f"{self.shards[shard].name}.tar: cannot be read ({e})") from e

    def fetch(self, shard: int) -> str:
        """Local path of a shard; a remote one is fetched first. Raises ShardLost."""
        entry = self.shards[shard]
        path = shard_path(self.path, entry.name)
        if not storage.is_remote(path):
            return path
        if shard in self._lost:  # to wait for it once is enough
            raise ShardLost(self._lost[shard])
        try:
            return str(self.cache.get(path, entry.bytes, entry.sha256))
        except ShardLost as e:
            self._lost[shard] = str(e)
            raise

    def _open(self, shard: int) -> LocalShard:
        """A shard's file, its length checked."""
        entry, remote = self.shards[shard], storage.is_remote(self.path)
        for _ in range(TRIES if remote else 1):
            path = self.fetch(shard)
            try:
                opened = LocalShard(path)
            except FileNotFoundError as e:
                if remote:
                    continue  # it had to make room for others just now
                raise ShardLost(f"{path}: missing; restore it or prepare the corpus anew") from e
            except OSError as e:
                if e.errno in (errno.EMFILE, errno.ENFILE):
                    raise  # this machine's fault, not the shard's
                raise ShardLost(f"{path}: cannot be read ({e})") from e
            length = os.fstat(opened.fd).st_size
            if length == entry.bytes:
                return opened
            if not remote:
                raise ShardLost(
                    f"{path}: {length} bytes, the manifest has {entry.bytes}; "
                    "restore it or prepare the corpus anew"
                )
            self.cache.drop(entry.sha256)
        raise ShardLost(
            f"{shard_path(self.path, entry.name)}: gone from {self.cache.folder} each time it had "
            "been fetched; raise data.cache_gb"
        )

    def close(self) -> None:
        """Close all shards."""
        self._opened.clear()

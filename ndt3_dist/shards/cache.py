"""Files of remote corpora on this host's disk, whole, verified, shared by its processes.

A file bears its sha256 as its name and appears by a rename once its bytes have that hash, so that a
process that is killed leaves nothing that another could take for a shard. Transient faults of the
store are waited out; what stays away or stays wrong is `ShardLost`.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.errors import ShardLost, StoreFailed
from ndt3_dist.remote import read_range

PIECE = 4 << 20
"""Bytes of one request."""


@dataclass
class Cache:
    """A folder of files by hash, the least recently used of which make room for others.

    Attributes:
        folder: On a local disk; may be shared by any number of processes and corpora.
        limit: Bytes of all files together, but for those that are just being fetched. A file that
            makes room stays readable where it is open, and on the disk until it is closed.
        attempts: Requests for a piece before the file is lost.
        timeout_s: Of one request of `PIECE` bytes; a store that trickles is a store that fails.
        first_wait_s: First wait after a fault; it doubles up to 30 s.
    """

    folder: Path
    limit: int
    attempts: int = 8
    timeout_s: float = 30.0
    first_wait_s: float = 0.5

    def get(self, remote: str, size: int | None, sha256: str) -> Path:
        """Local path of a remote file.

        Args:
            size, sha256: What it must have; a file of unknown size is fetched in one piece.
        Raises:
            ShardLost: It is missing, may not be read, or has other bytes.
            NoRoom: The disk is full.
        """
        path = self.folder / sha256
        while not self._touch(path):
            with self._locked(path):
                if not path.exists():
                    self._make_room(size or 0)
                    self._download(remote, size, sha256, path)
        return path

    def read(self, remote: str, sha256: str) -> bytes:
        """The bytes of a small remote file. Raises ShardLost as `get` does."""
        for _ in range(self.attempts):
            try:
                data = self.get(remote, None, sha256).read_bytes()
            except FileNotFoundError:
                continue  # it had to make room for others just now
            if storage.sha256_bytes(data) == sha256:
                return data
            self.drop(sha256)
        raise ShardLost(f"{remote}: its copy in {self.folder} does not last; see that disk")

    def drop(self, sha256: str) -> None:
        """Forget a file whose bytes have gone bad on this disk."""
        (self.folder / sha256).unlink(missing_ok=True)

    def forget(self, sha256: str) -> int:
        """Remove a file that nobody is to have any longer; how many there were."""
        path = self.folder / sha256
        there = path.exists()
        path.unlink(missing_ok=True)
        return int(there)

    @staticmethod
    def _touch(path: Path) -> bool:
        """Whether a file is there; it is then the most recently used."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One thread of this host at a time; a lock ends with its process.

        Some files share a lock, so that there are few and none is ever removed under its holder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{path.name[:3]}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _download(self, remote: str, size: int | None, sha256: str, path: Path) -> None:
        storage.check_room(path, size or 0)
        starts = range(0, size, PIECE) if size else (0,)
        for _ in range(2):  # bytes that went wrong on the way do not go wrong alike twice
            digest, length = hashlib.sha256(), 0
            with contextlib.suppress(_WrongBytes), storage.atomic_file(path) as f:
                for start in starts:
                    # One byte more than there should be, since a longer file is another file.
                    last = not size or start + PIECE >= size
                    stop = (size and size + 1) if last else start + PIECE
                    piece = self._piece(remote, start, stop)
                    digest.update(piece)
                    f.write(piece)
                    length += len(piece)
                if digest.hexdigest() != sha256:
                    raise _WrongBytes
                return
        what = "its sha256 is not the manifest's"
        if size and length != size:
            what = f"{length if length < size else 'more'} bytes, the manifest has {size}"
        raise ShardLost(f"{remote}: {what}; restore it or prepare the corpus anew")

    def _piece(self, remote: str, start: int, stop: int | None) -> bytes:
        """Part of a remote file, shorter where it ends before."""
        try:
            return read_range(remote, start, stop, self.attempts, self.timeout_s, self.first_wait_s)
        except FileNotFoundError as e:
            raise ShardLost(f"{remote}: missing; restore it or prepare the corpus anew") from e
        except PermissionError as e:
            raise ShardLost(f"{remote}: may not be read ({e}); see the key's policy") from e
        except StoreFailed as e:
            raise ShardLost(str(e)) from e

    def _make_room(self, needed: int) -> None:
        """Remove files, the least recently used first, until `needed` bytes more fit the limit."""
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                held = path.stat()
                if path.name.startswith(".") and time.time() - held.st_mtime > 3600:
                    path.unlink()  # of a download that was killed
                elif path.suffix != ".lock":
                    found.append((held.st_mtime, held.st_size, path))
        left = self.limit - needed
        for _, size, path in sorted(found, reverse=True):
            left -= size
            if left < 0:
                path.unlink(missing_ok=True)


class _WrongBytes(Exception):
    pass


def default_cache(folder: str = "", gigabytes: float = 50) -> Cache:
    """The cache that `data.cache` and `data.cache_gb` name; by default below the user's own."""
    # A user without a home, as in some containers, has no need of one for a corpus on a disk.
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Cache(Path(folder) if folder else Path(home) / "ndt3_dist", round(gigabytes * 1e9))

"""Files on a local disk or an object store, by one handful of functions.

A path is a string: a local path, or an fsspec URL such as `s3://bucket/folder`. What is written
appears whole or not at all: local files are written beside their place, flushed to the disk and
renamed; object stores commit an object at the end of its upload anyway.
"""

import errno
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ndt3_dist import log
from ndt3_dist.errors import BadInput, NoRoom, StoreFailed

READ_BYTES = 1 << 22
WHOLE_S = 600.0
"""For a request of a whole remote file, such as the manifest of a large corpus."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL (anything with `://`) rather than a local path."""
    return "://" in str(path)


def filesystem(path: str | Path):
    """The fsspec filesystem of `path`; s3fs is imported here and only for s3 URLs."""
    import fsspec

    protocol = str(path).split("://", 1)[0] if is_remote(path) else "file"
    try:
        return fsspec.filesystem(protocol)
    except ImportError as e:
        raise BadInput(f"{path}: reading {protocol}:// needs an extra package: {e}") from e
    except ValueError as e:
        raise BadInput(f"{path}: unknown protocol {protocol!r}; expected a path or s3://") from e


def join(path: str | Path, *parts: str) -> str:
    """Join path parts with '/', for local paths and URLs alike."""
    return "/".join([str(path).rstrip("/"), *(p.strip("/") for p in parts)])


def exists(path: str | Path) -> bool:
    return filesystem(path).exists(str(path)) if is_remote(path) else Path(path).exists()


def size(path: str | Path) -> int:
    """Size of a file in bytes. Raises FileNotFoundError."""
    return filesystem(path).size(str(path)) if is_remote(path) else Path(path).stat().st_size


def read_bytes(path: str | Path) -> bytes:
    """The whole of a file. Raises FileNotFoundError naming it, StoreFailed."""
    if is_remote(path):
        return read_range(path, 0, None, timeout_s=WHOLE_S)
    return Path(path).read_bytes()


def read_range(
    path: str | Path,
    start: int,
    stop: int | None,
    attempts: int = 8,
    timeout_s: float = 30.0,
    patience_s: float = 0.5,
) -> bytes:
    """Bytes [start, stop) of a remote file, fewer where it ends before; faults are waited out.

    Args:
        path: URL.
        start, stop: Of the bytes; None is the end.
        attempts: Requests before it is given up.
        timeout_s: Of one request, however slowly bytes still arrive.
        patience_s: First wait after a fault; it doubles up to 30 s.
    Raises:
        FileNotFoundError, PermissionError: At once.
        StoreFailed: None of the requests was answered.
    """
    wait = patience_s
    for attempt in range(1, attempts + 1):
        try:
            return _request(path, start, stop, timeout_s)
        except (FileNotFoundError, PermissionError, BadInput):
            raise
        except Exception as e:  # each store and library has faults of its own
            if "Credentials" in type(e).__name__:  # botocore's; waiting brings none
                raise PermissionError(str(e)) from e
            said = f"{type(e).__name__}: {e}"
            if isinstance(e, TimeoutError):
                said = f"no whole answer in {timeout_s:g} s"
            if attempt == attempts:
                raise StoreFailed(f"{path}: cannot be read after {attempt} tries ({said})") from e
            log.warn(f"{path}: {said}; again in {wait:.0f} s ({attempt} of {attempts})")
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, 30.0)
    raise AssertionError("unreachable")


def _request(path: str | Path, start: int, stop: int | None, timeout_s: float) -> bytes:
    fs = filesystem(path)
    if not fs.async_impl:
        return fs.cat_file(str(path), start, stop)
    from fsspec.asyn import sync

    return sync(  # pyright: ignore[reportReturnType]
        fs.loop, fs._cat_file, str(path), start=start, end=stop, timeout=timeout_s
    )


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; a broken one is a BadInput that names it."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as e:
        raise BadInput(f"{path}: not valid JSON ({e}); restore it or make it again") from e


def canonical_json(value: Any) -> bytes:
    """JSON bytes that depend on the value alone: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    if is_remote(path):
        filesystem(path).pipe_file(str(path), data)
        return
    with atomic_file(path) as f:
        f.write(data)


def write_pieces(path: str | Path, pieces: Iterable[bytes | memoryview]) -> int:
    """Write pieces one after the other, whole or not at all, without holding them together.

    Returns:
        Bytes of what was written.
    """
    total = 0
    opened = filesystem(path).open(str(path), "wb") if is_remote(path) else atomic_file(path)
    with opened as f:
        for piece in pieces:
            f.write(piece)
            total += len(piece)
    return total


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


class atomic_file:
    """A local file that takes its name only when its block ends without an error.

    Raises:
        BadInput: The disk is full (names the file and the free space); nothing is left behind.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.tmp = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.tmp.open("wb")
        except OSError as e:
            if e.errno in FULL:
                raise no_room(self.path) from e
            raise
        return self.file

    def __exit__(self, kind, value, traceback):
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                self.tmp.replace(self.path)
                fsync_folder(self.path.parent)
                return
        except OSError as e:
            value = e
        # On a full disk even close() fails; the temporary file must go all the same.
        try:
            self.file.close()
        except OSError as e:
            value = value or e
        self.tmp.unlink(missing_ok=True)
        if isinstance(value, OSError) and value.errno in FULL:
            raise no_room(self.path) from value
        if value is not None:
            raise value


def no_room(path: str | Path, needed: int | None = None) -> NoRoom:
    """The error for a disk without room at `path` (`needed` in bytes, where known)."""
    folder = nearest_folder(path)
    free = shutil.disk_usage(folder).free
    want = f"{needed / 1e6:.1f} MB" if needed else "more"
    return NoRoom(
        f"no room on the disk of {path}: {want} needed, {free / 1e6:.1f} MB free; "
        "free some space or choose another place, then run the same command again"
    )


def check_room(path: str | Path, needed: int) -> None:
    """Refuse work that cannot fit: raises BadInput where fewer than `needed` bytes are free."""
    if not is_remote(path) and shutil.disk_usage(nearest_folder(path)).free < needed:
        raise no_room(path, needed)


def nearest_folder(path: str | Path) -> Path:
    """The closest existing folder at or above `path`."""
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def fsync_folder(folder: str | Path) -> None:
    """Make renames and removals inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str | Path) -> None:
    """Remove a file or a folder with all it holds; absent is fine."""
    if is_remote(path):
        fs = filesystem(path)
        if fs.exists(str(path)):
            fs.rm(str(path), recursive=True)
    elif Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def list_names(folder: str | Path) -> list[str]:
    """Sorted names of what lies directly in `folder`; empty where it does not exist."""
    if is_remote(folder):
        fs = filesystem(folder)
        if not fs.exists(str(folder)):
            return []
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(str(folder), detail=False))
    return sorted(os.listdir(folder)) if Path(folder).is_dir() else []


def chunks(path: str | Path) -> Iterator[bytes]:
    """The bytes of a file in pieces of a few MB."""
    with filesystem(path).open(str(path), "rb") as f:
        while piece := f.read(READ_BYTES):
            yield piece


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file, read once in pieces."""
    digest = hashlib.sha256()
    for piece in chunks(path):
        digest.update(piece)
    return digest.hexdigest()


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()

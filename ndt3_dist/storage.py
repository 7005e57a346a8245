"""Files on a local disk or an object store, by one handful of functions.

A path is a string: a local path, or an fsspec URL such as `s3://bucket/folder`. What is written
appears whole or not at all: local files are written beside their place, flushed to the disk and
renamed; object stores commit an object at the end of its upload anyway.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ndt3_dist import remote, versions
from ndt3_dist.errors import BadInput, NoRoom, StoreFailed

READ_BYTES = 1 << 22
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL (anything with `://`) rather than a local path."""
    return "://" in str(path)


def join(path: str | Path, *parts: str) -> str:
    """Join path parts with '/', for local paths and URLs alike."""
    return "/".join([str(path).rstrip("/"), *(p.strip("/") for p in parts)])


def exists(path: str | Path) -> bool:
    return remote.exists(str(path)) if is_remote(path) else Path(path).exists()


def size(path: str | Path) -> int:
    """Size of a file in bytes. Raises FileNotFoundError."""
    return remote.size(str(path)) if is_remote(path) else Path(path).stat().st_size


def read_bytes(path: str | Path) -> bytes:
    """The whole of a file. Raises FileNotFoundError naming it, StoreFailed."""
    if is_remote(path):
        return remote.read_range(str(path), 0, None, timeout_s=remote.WHOLE_S)
    return Path(path).read_bytes()


def read_text(path: str | Path) -> str:
    """A file as text; "" where there is none."""
    try:
        return read_bytes(path).decode()
    except FileNotFoundError:
        return ""


def read_range(path: str | Path, start: int, size: int) -> np.ndarray:
    """So many bytes of a file from one on, (size,) uint8; fewer where it ends before.

    Raises:
        FileNotFoundError: It is not there.
        StoreFailed: The store does not answer.
    """
    if is_remote(path):
        data = remote.read_range(str(path), start, start + size, timeout_s=remote.WHOLE_S)
        return np.frombuffer(bytearray(data), np.uint8)
    data, got = np.empty(size, np.uint8), 0
    with Path(path).open("rb", buffering=0) as f:
        f.seek(start)
        while got < size and (more := f.readinto(data[got:].data)):
            got += more
    return data[:got]


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; a broken one is a BadInput that names it."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as e:
        raise BadInput(f"{path}: not valid JSON ({e}); restore it or make it again") from e


def canonical_json(value: Any) -> bytes:
    """JSON bytes that depend on the value alone: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_bytes(path: str | Path, data: bytes, check: Callable[[], None] | None = None) -> None:
    """Write `data` to `path`, whole or not at all.

    Args:
        check: Called before each attempt, of which a store may need several over minutes.
    """
    if is_remote(path):
        remote.put(str(path), data, check)
        return
    if check:
        check()
    with atomic_file(path) as f:
        f.write(data)


def write_pieces(path: str | Path, pieces: Callable[[], Iterable[bytes | memoryview]]) -> int:
    """Write pieces one after the other, whole or not at all, without holding them together.

    Args:
        pieces: Makes them; a store that fails in the middle gets them anew.
    Returns:
        Bytes of what was written.
    """
    if is_remote(path):
        return remote.write(str(path), pieces)
    total = 0
    with atomic_file(path) as f:
        for piece in pieces():
            f.write(piece)
            total += len(piece)
    return total


def write_json(path: str | Path, value: Any, check: Callable[[], None] | None = None) -> None:
    """Write `value` as indented JSON, whole or not at all; `check` as for `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), check)


def is_temporary(name: str) -> bool:
    """Whether a name is that of an `atomic_file` which was never finished."""
    return name.startswith(".") and name.endswith(".tmp")


class atomic_file:
    """A local file that takes its name only when its block ends without an error.

    Several writers of one name, on any hosts, do not meet: the last one that ends stays.

    Raises:
        BadInput: The disk is full (names the file and the free space); nothing is left behind.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.tmp = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.tmp")

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


def as_new(path: str | Path) -> None:
    """Give a file the mode that the umask gives to new ones, where a library gave it another."""
    mask = os.umask(0o077)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)


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
        remote.remove(str(path))
    elif Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def forget_versions(folder: str | Path) -> list[str]:
    """Delete the old versions and unfinished uploads that a bucket keeps below a folder.

    Returns:
        What remains and why, a line each; nothing on a disk.
    """
    return versions.forget(str(folder)) if is_remote(folder) else []


def copy(source: str | Path, to: str | Path) -> None:
    """Copy a file, whole or not at all: within a store by the store, on one disk as a hard link.

    A link is as good as a copy: nothing is ever written into a file that is there.
    """
    protocols = {str(path).split("://", 1)[0] for path in (source, to)}
    if is_remote(source) and is_remote(to) and len(protocols) == 1:
        remote.copy(str(source), str(to))
        return
    if not (is_remote(source) or is_remote(to)):
        tmp = Path(to).with_name(f".{Path(to).name}.{secrets.token_hex(8)}.tmp")
        tmp.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(source), tmp)
        except FileNotFoundError:
            raise
        except OSError:
            pass  # another disk, or one that has no links
        else:
            tmp.replace(to)
            tmp.unlink(missing_ok=True)  # where `to` was the same file
            return
    write_pieces(to, lambda: chunks(source))


def move_folder(folder: str | Path, to: str | Path, first: str) -> None:
    """Give a flat folder another name; in a store its objects are copied and removed one by one.

    Args:
        first: The file that goes first, and arrives last.
    """
    if not is_remote(folder):
        Path(folder).rename(to)
        return
    names = sorted(list_names(folder), key=lambda name: name == first)
    for name in names:
        remote.copy(join(folder, name), join(to, name))
    for name in reversed(names):
        remote.remove(join(folder, name))


def sizes(folder: str | Path) -> dict[str, int | None]:
    """Name -> bytes of what lies directly in a folder (None for folders); empty where absent."""
    if is_remote(folder):
        return remote.sizes(str(folder))
    if not Path(folder).is_dir():
        return {}
    with os.scandir(folder) as found:
        return {f.name: f.stat().st_size if f.is_file() else None for f in found}


def walk(root: str) -> dict[str, int]:
    """Path below a URL -> bytes, of every object there; "" for the URL where it is one itself."""
    return remote.walk(root)


def list_names(folder: str | Path) -> list[str]:
    """Sorted names of what lies directly in `folder`; empty where it does not exist."""
    return sorted(sizes(folder))


def chunks(path: str | Path) -> Iterator[bytes]:
    """The bytes of a file in pieces of a few MB."""
    if not is_remote(path):
        with Path(path).open("rb") as f:
            while piece := f.read(READ_BYTES):
                yield piece
        return
    start, total = 0, size(path)
    while start < total:
        piece = remote.read_range(str(path), start, start + READ_BYTES)
        if len(piece) != min(READ_BYTES, total - start):  # some web servers send all, always
            raise StoreFailed(
                f"{path}: {len(piece)} bytes came from byte {start} on, "
                f"{min(READ_BYTES, total - start)} were asked for; does the server send parts?"
            )
        yield piece
        start += READ_BYTES


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file, read once in pieces."""
    digest = hashlib.sha256()
    for piece in chunks(path):
        digest.update(piece)
    return digest.hexdigest()


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def fast_hash(data) -> str:
    """Hex xxh3-128 of bytes or an array: finds accidents as sha256 does, at seven times its speed.

    For what only its own writer vouches for; it resists nobody who wants to deceive.
    """
    return xxhash.xxh3_128_hexdigest(data)

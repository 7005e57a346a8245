"""A local file of each recording, for as long as it is read."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.prep.recordings import InMemory, RecordingFile
from ndt3_dist.readers.on_disk import FOLDER, away, sha256_of

PREFIX = "ndt3_dist_recording_"
"""Of temporary folders; nothing else may be called so."""
AT_ONCE = 8
"""Files of a folder that are fetched at once."""


@contextmanager
def fetched(source: RecordingFile) -> Iterator[tuple[Path, str]]:
    """A local file of a recording and its sha256; a remote one lies on this host's disk meanwhile.

    Raises:
        BadInput: It is neither a file nor a folder that is a recording, but a pipe or the like.
        NoRoom: It does not fit.
        StoreFailed: It cannot be had.
    """
    if isinstance(source, InMemory):
        yield Path(source.path), source.sha256  # there is no file, and `reading.read` needs none
        return
    if not storage.is_remote(source.path):
        path = Path(source.path)
        is_folder = path.is_dir() and path.name.endswith(FOLDER)
        if path.exists() and not (path.is_file() or is_folder):
            raise BadInput(f"{source.path}: not a regular file; expected a recording")
        if why := away(path):
            raise BadInput(f"{source.path}: {why}")
        yield path, sha256_of(path)
        return
    storage.check_room(tempfile.gettempdir(), source.bytes)
    with own_folder() as folder:
        # Readers may take a name from the file's own or its folder's.
        known = source.path if source.path.endswith(source.name) else f"recordings/{source.name}"
        *_, above, name = PurePosixPath(known).parts
        path = folder / above / name
        path.parent.mkdir()
        try:
            sha256 = (fetch_folder if name.endswith(FOLDER) else fetch)(source.path, path)
        except OSError as e:
            if e.errno in storage.FULL:
                raise storage.no_room(folder, source.bytes) from e
            raise
        if source.sha256 not in ("", sha256):
            raise BadInput(
                f"{source.path}: has sha256 {sha256[:12]}, the list of assets says "
                f"{source.sha256[:12]}; get the list again"
            )
        try:
            yield path, sha256
        except Ndt3DistError as e:
            raise type(e)(str(e).replace(str(path), source.path)) from e


def fetch(url: str, path: Path) -> str:
    """Fetch a file, hashed on the way; its sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in storage.chunks(url):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def fetch_folder(url: str, path: Path) -> str:
    """Fetch all that lies below a folder of a store, a few files at once; its sha256.

    Raises:
        BadInput: A name there would leave the folder.
    """
    names = [name for name in storage.walk(url) if name and not name.endswith("/")]
    for name in names:
        if not is_below(name):
            raise BadInput(f"{url}: holds {ascii(name)[:80]}, which leads out of it; refused")
    for above in {(path / name).parent for name in names}:
        above.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: fetch(storage.join(url, name), path / name), names))
    return sha256_of(path)


def is_below(name: str) -> bool:
    """Whether a name with '/' stays in the folder that it is joined to."""
    return not {"", ".", ".."} & set(name.split("/")) and "\0" not in name


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that goes with the block; those of processes that were killed go first.

    A folder is locked while it is used: the lock of a dead process is nobody's.
    """
    above = Path(tempfile.gettempdir())
    for folder in above.glob(f"{PREFIX}*"):
        with locked(folder) as abandoned:
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with locked(folder) as mine:
            if not mine or not folder.exists():  # another process took it for abandoned
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether a folder's lock could be had, which is then held to the end of the block."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, somebody else's, or no folder
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)

"""A local file of each recording, for as long as it is read."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.prep.recordings import RecordingFile

PREFIX = "ndt3_dist_recording_"
"""Of temporary folders; nothing else may be called so."""


@contextmanager
def fetched(source: RecordingFile) -> Iterator[tuple[Path, str]]:
    """A local file of a recording and its sha256; a remote one lies on this host's disk meanwhile.

    Raises:
        BadInput: It is no file, but a pipe or the like.
        NoRoom: It does not fit.
        StoreFailed: It cannot be had.
    """
    if not storage.is_remote(source.path):
        if Path(source.path).exists() and not Path(source.path).is_file():
            raise BadInput(f"{source.path}: not a regular file; expected a recording")
        yield Path(source.path), storage.sha256_file(source.path)
        return
    storage.check_room(tempfile.gettempdir(), source.bytes)
    with own_folder() as folder:
        # Readers may take a name from the file's own or its folder's.
        known = source.path if source.path.endswith(source.name) else f"recordings/{source.name}"
        *_, above, name = PurePosixPath(known).parts
        path, digest = folder / above / name, hashlib.sha256()
        path.parent.mkdir()
        try:
            with path.open("wb") as file:
                for piece in storage.chunks(source.path):
                    file.write(piece)
                    digest.update(piece)
        except OSError as e:
            if e.errno in storage.FULL:
                raise storage.no_room(folder, source.bytes) from e
            raise
        if source.sha256 not in ("", digest.hexdigest()):
            raise BadInput(
                f"{source.path}: has sha256 {digest.hexdigest()[:12]}, the list of assets says "
                f"{source.sha256[:12]}; get the list again"
            )
        try:
            yield path, digest.hexdigest()
        except Ndt3DistError as e:
            raise type(e)(str(e).replace(str(path), source.path)) from e


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

"""A recording on a disk: one file, or a folder of files that are one recording together (Zarr).

A folder is a recording by its name. Its size is the sum of its files, its hash is one over all
their names and contents, and what is no plain file in it is refused, links above all.
"""

import hashlib
import os
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.errors import BadInput

FOLDER = ".zarr"
"""End of the name of a folder that is one recording."""
BEGINS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself; run git annex get"),
    (b"<!doctype html", "an HTML page: the download failed or needs a login"),
    (b"<html", "an HTML page: the download failed or needs a login"),
    (b"<?xml", "an XML page, such as a store's error: the download failed or needs a login"),
)
"""How files begin, in small letters, that have the name of a recording and are none."""


def file_sizes(folder: str | Path) -> dict[str, int]:
    """Name with '/' -> bytes of each file below a folder.

    Raises:
        BadInput: Something there is a link, a pipe or the like.
    """
    found, waiting = {}, [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    found[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise BadInput(
                        f"{folder}: {name} is a link or no plain file, which is not followed; copy "
                        "the folder with `cp -rL`, or `git annex unlock` it"
                    )
    return found


def size_of(path: str | Path) -> int:
    """Bytes of a recording."""
    return sum(file_sizes(path).values()) if Path(path).is_dir() else Path(path).stat().st_size


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a recording.

    That of a folder is the sha256 of a line for each file, in the order of their names as bytes:
    the name, a zero byte, the hex sha256 of its content, a line feed.
    """
    if not Path(path).is_dir():
        return storage.sha256_file(path)
    digest = hashlib.sha256()
    for name in sorted(map(os.fsencode, file_sizes(path))):
        content = storage.sha256_file(os.path.join(path, os.fsdecode(name)))
        digest.update(name + b"\0" + content.encode() + b"\n")
    return digest.hexdigest()


def stands_for(path: Path) -> str:
    """What a file is that only has the name of a recording; "" where nothing is known of it."""
    with path.open("rb") as f:
        start = f.read(256)
    if not start:
        return "an empty file; copy or download it again"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for begin, what in BEGINS if text.startswith(begin)), "")


def away(path: Path) -> str:
    """Why there is nothing behind a link of git-annex; "" for anything else."""
    if path.is_symlink() and "annex/objects/" in os.readlink(path):
        return "its content is not here; run git annex get"
    return ""

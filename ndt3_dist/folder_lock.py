"""A folder that one process at a time works on, and that keeps what it was asked for."""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ndt3_dist import storage
from ndt3_dist.errors import ResumeMismatch

LOCK = ".lock"


def names_in(folder: Path) -> set[str]:
    """What lies in a folder, the lock left out; nothing where there is none."""
    return {p.name for p in folder.iterdir()} - {LOCK} if folder.exists() else set()


def hold(folder: Path, who: str = "process") -> IO[str]:
    """Take a folder, which is made where there is none, until what is returned is closed.

    Raises:
        ResumeMismatch: Another one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        lock.close()
        raise ResumeMismatch(f"{folder}: another {who} is at work on it") from e
    return lock


def changed(path: Path, asked: Mapping[str, Any]) -> list[str]:
    """Keys in which what is asked for differs from what a JSON file says was asked for before."""
    theirs = storage.read_json(path)
    theirs = theirs if isinstance(theirs, dict) else {}
    return [k for k in {**theirs, **asked} if theirs.get(k) != asked.get(k)]

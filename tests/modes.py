"""What others on a machine may read: as the umask says, and not as a library has it."""

import os
from pathlib import Path


def assert_modes(folder: Path) -> None:
    """Each file and folder below one has the mode that the umask gives to new ones."""
    mask = os.umask(0o022)
    os.umask(mask)
    found = {p: p.stat().st_mode & 0o777 for p in [folder, *folder.rglob("*")]}
    assert len(found) > 1
    wrong = {
        str(p): oct(mode)
        for p, mode in found.items()
        if mode != (0o777 if p.is_dir() else 0o666) & ~mask
    }
    assert not wrong

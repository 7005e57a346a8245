"""Memory without a name that a process and its rank have both mapped."""

import mmap
import os
import tempfile

import numpy as np

from ndt3_dist.errors import Ndt3DistError

ALIGN = 64
"""Bytes; each array begins at a multiple."""


class Memories:
    """Memory that a process shares with its rank, used again once the rank has let go of it.

    Attributes:
        all: Mapped; the rank knows them by their place here.
        free: Those that nobody uses.
        number, file: The one that a step is put into; its file where it is new, else -1.
        used: Bytes of it; of the step before until there is one.
    """

    def __init__(self):
        self.all: list[mmap.mmap] = []
        self.free: set[int] = set()
        self.used, self.file = 0, -1

    def begin(self) -> None:
        """Take one for a step."""
        found = [number for number in self.free if len(self.all[number]) >= self.used]
        if found:
            self.number, self.file = found[0], -1
            self.free.discard(self.number)
        else:
            self._add(self.used)
        self.used = 0

    def _add(self, size: int) -> None:
        """A new one, with room for steps that are a little larger."""
        size = -(-max(size, 1) * 5 // 4 // mmap.PAGESIZE) * mmap.PAGESIZE
        self.file = new_file(size)
        self.all.append(mapped(os.dup(self.file), size))
        self.number = len(self.all) - 1

    def put(self, arrays: dict[str, np.ndarray]) -> list[tuple]:
        """Copy a micro-batch while it is warm; (name, type, shape, first byte) of its arrays."""
        layout, at = [], self.used
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise Ndt3DistError(
                    f"data.workers > 1: the model packs Python objects as {name}; expected arrays "
                    "of numbers"
                )
            layout.append((name, array.dtype, array.shape, at))
            at += -(-array.nbytes // ALIGN) * ALIGN
        if at > len(self.all[self.number]):
            self._enlarge(2 * at)
        ((_, copies),) = arrays_in(self.all[self.number], [(0, layout)])
        for name, array in arrays.items():
            copies[name][...] = array
        self.used = at
        return layout

    def give_up(self) -> None:
        """Nothing comes of the step."""
        if self.file >= 0:
            os.close(self.file)
            self.all.pop()  # the rank does not know of it
        else:
            self.free.add(self.number)

    def _enlarge(self, size: int) -> None:
        """Go on with this step in a larger one."""
        old = self.all[self.number]
        self.give_up()
        self._add(size)
        self.all[self.number][: self.used] = old[: self.used]


def mapped(file: int, size: int) -> mmap.mmap:
    """So many bytes of an open file, which is closed."""
    try:
        return mmap.mmap(file, size)
    finally:
        os.close(file)


def arrays_in(memory, layout: list) -> list[tuple[int, dict[str, np.ndarray]]]:
    """The arrays that lie in a memory, by micro-batch."""
    return [
        (number, {name: np.ndarray(shape, kind, memory, at) for name, kind, shape, at in arrays})
        for number, arrays in layout
    ]


def new_file(size: int) -> int:
    """Memory of so many bytes as an open file without a name."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("ndt3_dist")
    else:  # not on Linux
        with tempfile.TemporaryFile() as made:
            file = os.dup(made.fileno())
    os.truncate(file, size)
    return file

"""MATLAB v5 files (save -v6, -v7), read by a parser of our own.

The usual parser ends the process on some damaged files and takes memory by what a file declares
(docs/LOG.md has figures). Here every element has to fit into what holds it, an array may not have
more elements than bytes, nesting ends, and the checksum of a compressed variable is compared.
Numbers keep the type they are stored in, which may be smaller than MATLAB's own.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import refuse_bomb
from ndt3_dist.readers.matlab.mat_values import (
    MOST_DEPTH,
    Foreign,
    MatFile,
    dig,
    element,
    missing,
    objects,
)

MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, NUMERIC = 1, 2, 4, range(6, 16)
OTHERS = {3: "object", 5: "sparse array", 16: "function", 17: "object"}
COMPLEX, LOGICAL = 0x0800, 0x0200
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}
STORED |= {7: "f4", 9: "f8"}
TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
PIECE = 1 << 20


class V5File(MatFile):
    """Variables are listed at once and read when they are asked for, each as a whole."""

    def __init__(self, path: Path):
        self.file, self.size = path.open("rb"), path.stat().st_size
        header = self.file.read(128)
        self.order = {b"IM": "<", b"MI": ">"}.get(header[126:128], "")
        if not self.order or struct.unpack(self.order + "H", header[124:126])[0] != 0x0100:
            raise BadInput("not a MATLAB file of version 5 or 7.3; expected save -v7 or -v7.3")
        self.at: dict[str, int] = {}
        self.known: dict[str, Any] = {}
        self._list()

    def _list(self) -> None:
        """Where each variable begins."""
        total = 0
        while self.file.tell() < self.size:
            offset = self.file.tell()
            kind, part, end = self._open(f"variable {len(self.at) + 1}")
            total += part.left
            refuse_bomb("the whole", total, self.size)
            if kind == MATRIX and part.left:
                self.at[part.head()[2]] = offset
            self.file.seek(end)

    def close(self) -> None:
        self.file.close()

    def __getitem__(self, field: str) -> Any:
        first, *parts = field.split(".")
        if first not in self.at or not first:
            raise missing(field, "", [n for n in self.at if n])
        if first not in self.known:
            self.file.seek(self.at[first])
            _, part, _ = self._open(first)
            try:
                value = part.value(first, MOST_DEPTH)
                part.stream.finish(first)
            except zlib.error as e:  # its checksum, or what it is packed as
                raise BadInput(f"{first} does not unpack ({e}); the file is damaged") from e
            self.known[first] = value
        return dig(self.known[first], parts, field, first)

    def _open(self, name: str) -> tuple[int, "Part", int]:
        """Kind and content of the variable that begins here, and where it ends in the file."""
        stream = Stream(self.file, 8, packed=False)
        kind, count = struct.unpack(self.order + "II", stream.take(8))
        end = self.file.tell() + count
        if end > self.size:
            raise BadInput(f"{name} is longer than the file; the file is truncated")
        unpacked = count
        if kind == COMPRESSED:
            stream = Stream(self.file, count, packed=True)
            kind, unpacked = struct.unpack(self.order + "II", stream.take(8))
        refuse_bomb(name, unpacked, count)
        return kind, Part(stream, self.order, unpacked), end


class Stream:
    """Bytes of the file, or of one compressed variable of it."""

    def __init__(self, file: IO[bytes], size: int, packed: bool):
        self.file, self.packed = file, size
        self.inflate = zlib.decompressobj() if packed else None
        self.waiting = b""

    def take(self, number: int) -> bytes:
        """The next bytes, piece by piece: a lie about their number takes no memory."""
        pieces = []
        while number:
            pieces.append(self._piece(min(number, PIECE)))
            number -= len(pieces[-1])
            if not pieces[-1]:
                raise BadInput("ends in the middle of a variable; the file is truncated")
        return b"".join(pieces)

    def finish(self, name: str) -> None:
        """Read a compressed variable to its end, where its checksum is compared."""
        if self.inflate is None:
            return
        if self._piece(1) or not self.inflate.eof:
            raise BadInput(f"{name} does not end where it says; the file is damaged")

    def _piece(self, most: int) -> bytes:
        if self.inflate is None:
            return self.file.read(most)
        while not self.inflate.eof:
            if not self.waiting:
                self.waiting = self.file.read(min(self.packed, PIECE))
                self.packed -= len(self.waiting)
            ended = not self.waiting
            piece = self.inflate.decompress(self.waiting, most)
            self.waiting = self.inflate.unconsumed_tail
            if piece or ended:
                return piece
        return b""


class Part:
    """The content of one array: a sequence of elements that fill `left` bytes."""

    def __init__(self, stream: Stream, order: str, left: int):
        self.stream, self.order, self.left = stream, order, left

    def tag(self) -> tuple[int, int, bytes | None]:
        """Type, size and, where it is small, data of the next element."""
        tag = self._take(8)
        kind, size = struct.unpack(self.order + "II", tag)
        if not kind >> 16:
            return kind, size, None
        if kind >> 16 > 4:
            raise BadInput("has a short element of over 4 bytes; the file is damaged")
        return kind & 0xFFFF, kind >> 16, tag[4 : 4 + (kind >> 16)]

    def element(self) -> tuple[int, bytes]:
        """Type and data of the next element that holds no others."""
        kind, size, data = self.tag()
        if data is None:
            data = self._take(size)
            self._take(min(-size % 8, self.left))  # the last one may lack its padding
        return kind, data

    def numbers(self) -> np.ndarray:
        """The next element as an array of its stored type."""
        kind, data = self.element()
        if kind not in STORED or len(data) % int(STORED[kind][1]):
            raise BadInput(f"has numbers of the unknown type {kind}; the file is damaged")
        return np.frombuffer(data, self.order + STORED[kind])

    def head(self) -> tuple[int, tuple[int, ...], str]:
        """Class with its flags, dimensions and name."""
        flags = int(self.numbers()[0])
        if flags & 0xFF in OTHERS:
            return flags, (), self._name_of_other(flags & 0xFF)
        dims = tuple(int(d) for d in self.numbers())
        return flags, dims, self.element()[1].decode("latin-1")

    def _name_of_other(self, kind: int) -> str:
        if kind != 17:  # an object of a class has its name first, all others have dimensions
            self.element()
        return self.element()[1].decode("latin-1")

    def value(self, field: str, depth: int) -> Any:
        """The array, which takes all that is left."""
        if not self.left:
            return np.zeros((0, 0))
        if not depth:
            raise BadInput(f"{field} is nested {MOST_DEPTH} deep; refused")
        flags, dims, _ = self.head()
        kind = flags & 0xFF
        if kind in OTHERS or flags & COMPLEX:
            self._pass()
            return Foreign(OTHERS.get(kind, "array of complex numbers"))
        if len(dims) < 2 or min(dims) < 0 or math.prod(dims) > self.left:
            raise BadInput(f"{field} declares {dims} elements in {self.left} bytes; refused")
        if kind == CELL:
            names = [element(field, at) for at in _places(dims)]
            return _laid_out(self._inner(names, depth), dims)
        if kind == STRUCT:
            width = int(self.numbers()[0])
            packed = self.element()[1]
            names = [
                packed[i : i + width].split(b"\0")[0].decode("latin-1")
                for i in range(0, len(packed), max(width, 1))
            ]
            if math.prod(dims) * len(names) > self.left:
                raise BadInput(f"{field} declares {dims} structs in {self.left} bytes; refused")
            each = [
                dict(zip(names, self._inner([f"{field}.{n}" for n in names], depth), strict=True))
                for _ in _places(dims)
            ]
            return each[0] if len(each) == 1 else _laid_out(each, dims)
        if kind not in NUMERIC and kind != CHAR:
            raise BadInput(f"{field} is of the unknown class {kind}; the file is damaged")
        values = self._text() if kind == CHAR else self.numbers()
        self._pass()
        if values.size != math.prod(dims):
            raise BadInput(f"{field} has {values.size} elements; its shape is {dims}")
        values = values.reshape(dims, order="F")
        if kind == CHAR:
            rows = ["".join(row) for row in values.reshape(dims[0], -1)]
            return "".join(rows) if len(rows) < 2 else objects(rows, (len(rows), 1))
        return values.astype(bool) if flags & LOGICAL else values

    def _inner(self, names: list[str], depth: int) -> list:
        """The next arrays inside this one."""
        found = []
        for name in names:
            kind, size, data = self.tag()
            if kind != MATRIX or data is not None or size > self.left:
                raise BadInput(f"{name} does not fit into what holds it; the file is damaged")
            self.left -= size
            found.append(Part(self.stream, self.order, size).value(name, depth - 1))
        return found

    def _text(self) -> np.ndarray:
        """The next element as single characters."""
        kind, data = self.element()
        if kind in TEXTS:
            coding = TEXTS[kind]
            if kind != 16:
                coding += "-le" if self.order == "<" else "-be"
            return np.array(list(data.decode(coding, "replace")), object)
        if kind not in (1, 2, 3, 4):
            raise BadInput(f"has text of the unknown type {kind}; the file is damaged")
        codes = np.frombuffer(data, self.order + STORED[kind].replace("i", "u"))
        return np.array([chr(c) for c in codes], object)

    def _take(self, number: int) -> bytes:
        if number > self.left:
            raise BadInput("has an element that is larger than what holds it; the file is damaged")
        self.left -= number
        return self.stream.take(number)

    def _pass(self) -> None:
        """Pass over the rest."""
        while self.left:
            self._take(min(self.left, PIECE))


def _laid_out(values: list, dims: tuple[int, ...]) -> np.ndarray:
    """An object array of values that came in the order in which MATLAB stores them."""
    return objects(values, dims[::-1]).T


def _places(dims: tuple[int, ...]):
    """Subscripts in the order in which MATLAB stores elements."""
    return (at[::-1] for at in np.ndindex(dims[::-1]))

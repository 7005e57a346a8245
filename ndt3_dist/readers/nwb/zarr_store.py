"""An NWB recording as a folder: a Zarr store of format 2, as hdmf-zarr's NWBZarrIO writes it.

It is read here from its files, of which only those that are there when it is opened are looked at:
metadata in JSON, chunks under their numbers, links in the attributes of groups. A chunk that is
missing is refused, although Zarr takes it for the fill value: hdmf-zarr writes all of them, and a
copy that was cut short would else be read as silence.
"""

import json
import math
import posixpath
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import refuse_bomb
from ndt3_dist.readers.inside import Group, elsewhere
from ndt3_dist.readers.nwb.zarr_chunks import TEXTS, refused, texts, unpack, unshuffle
from ndt3_dist.readers.on_disk import file_sizes

MOST_METADATA = 256 << 20
"""Bytes of a JSON file."""


class Store:
    """The files of a folder, and what its metadata says is where."""

    def __init__(self, folder: Path):
        self.folder, self.sizes = folder, file_sizes(folder)
        self.size = sum(self.sizes.values())
        if "zarr.json" in self.sizes:
            raise BadInput("a Zarr store of format 3; expected format 2, as hdmf-zarr writes it")
        if not {".zgroup", ".zmetadata"} & self.sizes.keys():
            raise BadInput("a folder without .zgroup; expected NWB 2, as HDF5 or as a Zarr store")
        # Metadata by its file, read when it is asked for unless all of it is in one.
        self.known: dict[str, Any] = {}
        self.consolidated = ".zmetadata" in self.sizes
        if self.consolidated:
            self.known = dict(self._parsed(".zmetadata")["metadata"])
        self.inside: dict[str, list[str]] = {}
        for key in sorted(self.known if self.consolidated else self.sizes):
            path, kind = posixpath.split(key)
            if path and kind in (".zarray", ".zgroup"):
                above, name = posixpath.split(path)
                self.inside.setdefault(above, []).append(name)

    def json(self, name: str) -> dict[str, Any]:
        """A file of metadata; {} where there is none."""
        if name not in self.known:
            told = {} if self.consolidated or name not in self.sizes else self._parsed(name)
            self.known[name] = told
        return self.known[name] if isinstance(self.known[name], dict) else {}

    def _parsed(self, name: str) -> Any:
        if self.sizes[name] > MOST_METADATA:
            raise BadInput(f"{name} has {self.sizes[name] / 1e6:.0f} MB of metadata; refused")
        try:
            return json.loads(self.read(name))
        except ValueError as e:
            raise BadInput(f"{name} is not valid JSON; copy the folder again") from e

    def read(self, name: str) -> bytes:
        """A file that was there when the store was opened."""
        return (self.folder / name).read_bytes()


def open_zarr(folder: Path) -> tuple["ZarrGroup", int]:
    """The root of a store, and its bytes."""
    store = Store(folder)
    return ZarrGroup(store), store.size


class ZarrGroup(Group):
    """A group of a store."""

    def __init__(self, store: Store, path: str = "", root: "ZarrGroup | None" = None):
        super().__init__(path, root)
        self.store, told = store, store.json(self.below(".zattrs"))
        self.attrs = attributes(told)
        links = told.get("zarr_link", [])
        self.links = {str(link["name"]): link for link in links if "name" in link}

    def names(self) -> list[str]:
        return sorted({*self.store.inside.get(self.path, []), *self.links})

    def target(self, name: str) -> str | None:
        if name not in self.links:
            return None
        link = self.links[name]
        if posixpath.normpath(str(link.get("source") or ".")) != ".":
            raise elsewhere(self.below(name))
        return "/" + str(link.get("path", "")).strip("/")

    def member(self, name: str) -> "ZarrGroup | ZarrArray":
        if name not in self.store.inside.get(self.path, []):
            raise KeyError(name)
        path = self.below(name)
        if self.store.json(f"{path}/.zarray"):
            return ZarrArray(self.store, path)
        return ZarrGroup(self.store, path, self.root)  # pyright: ignore


class ZarrArray:
    """An array of a store, with as much of h5py's manners as readers need."""

    def __init__(self, store: Store, path: str):
        self.store, self.path, told = store, path, store.json(f"{path}/.zarray")
        said = store.json(f"{path}/.zattrs")
        self.attrs, self.told = attributes(said), told
        self.laid: tuple[int, ...]
        self.laid, self.chunks = numbers_of(told.get("shape")), numbers_of(told.get("chunks"))
        fits = len(self.laid) == len(self.chunks) and all(self.chunks)
        if told.get("zarr_format") != 2 or not fits:
            raise BadInput(f"{path}/.zarray has no shape and chunks of Zarr format 2; damaged")
        # A single value is written as an array of one.
        self.is_value = said.get("zarr_dtype") == "scalar" and math.prod(self.laid) == 1
        self.shape = () if self.is_value else self.laid
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.last: tuple[str, Any] = ("", None)  # the chunk that was read last

    @property
    def dtype(self) -> np.dtype:
        """Of the values; text of every kind is that of h5py. Raises BadInput for what is not
        read."""
        import h5py

        stored = self.stored_dtype
        return h5py.string_dtype() if stored.kind in "OU" else stored

    @property
    def stored_dtype(self) -> np.dtype:
        named, filters = self.told.get("dtype"), self.filters
        for name in filters:
            if name != "shuffle" and name not in TEXTS:
                raise refused(self.path, name)
        dtype = np.dtype(named) if isinstance(named, str) else np.dtype("V1")
        is_text = len(filters) > 0 and filters[0] in TEXTS
        if dtype.kind not in "biufSUO" or (dtype.kind == "O") != is_text:
            raise BadInput(f"{self.path} holds {str(named)[:40]}; expected numbers or text")
        return dtype

    @property
    def filters(self) -> list[str]:
        return [str(told.get("id")) for told in self.told.get("filters") or []]

    @cached_property
    def stored_bytes(self) -> int:
        """Of its chunks in the store."""
        begin = f"{self.path}/"
        return sum(s for name, s in self.store.sizes.items() if name.startswith(begin))

    def __len__(self) -> int:
        return self.laid[0]

    def __getitem__(self, at) -> Any:
        """All values for (), else the rows of a slice without steps."""
        dtype, wanted = self.stored_dtype, [range(n) for n in self.laid]
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self))
            wanted[0] = range(start, max(start, stop))
        shape = tuple(map(len, wanted))
        refuse_bomb(self.path, math.prod(shape) * max(dtype.itemsize, 8), self.stored_bytes)
        axes = list(zip(wanted, self.chunks, strict=True))
        numbers = product(*(range(w.start // c, -(-w.stop // c)) for w, c in axes))
        names = {number: self.chunk_name(number) for number in numbers}
        found = np.empty(shape, object if dtype.kind == "O" else dtype)
        for number, name in names.items():
            into, part = [], []
            for (w, c), n in zip(axes, number, strict=True):
                low, high = max(n * c, w.start), min(n * c + c, w.stop)
                into.append(slice(low - w.start, high - w.start))
                part.append(slice(low - n * c, high - n * c))
            found[tuple(into)] = self.chunk(name, dtype)[tuple(part)]
        return found.reshape(-1)[0] if not self.ndim else found

    def chunk_name(self, number: tuple[int, ...]) -> str:
        """The file of a chunk. Raises BadInput where it is missing."""
        key = str(self.told.get("dimension_separator", ".")).join(map(str, number)) or "0"
        name = f"{self.path}/{key}"
        if name not in self.store.sizes:
            raise BadInput(f"{self.path} lacks its chunk {key}; copy the folder again, all of it")
        return name

    def chunk(self, name: str, dtype: np.dtype) -> np.ndarray:
        """The values of a chunk, in its shape."""
        if self.last[0] != name:
            count = math.prod(self.chunks)
            size = None if dtype.kind == "O" else count * dtype.itemsize
            data = unpack(self.store.read(name), self.told.get("compressor"), size, self.path)
            for told in reversed(self.told.get("filters") or []):
                if told["id"] == "shuffle":
                    data = unshuffle(data, int(told.get("elementsize", 4)), self.path)
            if dtype.kind == "O":
                values = np.array(texts(data, count, self.path), object)
            else:
                values = np.frombuffer(data, dtype)
            order = "F" if self.told.get("order") == "F" else "C"
            self.last = name, values.reshape(self.chunks, order=order)
        return self.last[1]


def numbers_of(told: Any) -> tuple[int, ...]:
    """A shape of a store; BadInput for what is none."""
    if not isinstance(told, list) or not all(type(n) is int and n >= 0 for n in told):
        raise BadInput(f"a shape of {str(told)[:40]}; expected whole numbers: damaged")
    return tuple(told)


def attributes(told: dict[str, Any]) -> dict[str, Any]:
    """Attributes as h5py has them: lists are arrays."""
    return {k: np.asarray(v, object) if isinstance(v, list) else v for k, v in told.items()}

"""MATLAB v7.3 files, which are HDF5: sizes are looked at before anything is read.

References are followed from cells and struct arrays alone, never back to what holds them.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import HDF5Array, open_hdf5, refuse_bomb
from ndt3_dist.readers.inside import Group
from ndt3_dist.readers.matlab.mat_values import (
    MOST_DEPTH,
    MOST_VALUES,
    Foreign,
    MatFile,
    dig,
    element,
    missing,
    objects,
)


class V73File(MatFile):
    """MATLAB v7.3, which is HDF5: axes are in the other order, cells hold references."""

    def __init__(self, path: Path):
        self.file = ExitStack()
        self.h5, self.size = self.file.enter_context(open_hdf5(path)), path.stat().st_size
        self.bytes = self.values = 0

    def close(self) -> None:
        self.file.close()

    def __getitem__(self, field: str) -> Any:
        parts = field.split(".")
        node, walked = self.h5, []
        while parts and isinstance(node, Group) and parts[0] in node:
            walked.append(parts.pop(0))
            node = node[walked[-1]]
        if isinstance(node, Group) and parts:
            raise missing(field, ".".join(walked), [n for n in node if not str(n).startswith("#")])
        return dig(self._value(node, ".".join(walked), MOST_DEPTH), parts, field, ".".join(walked))

    def _value(self, node, field: str, depth: int) -> Any:
        if not depth:  # which ends circles too
            raise BadInput(f"{field} is nested {MOST_DEPTH} deep or leads back to itself; refused")
        self._count(0, field)
        self.values += 1
        if "MATLAB_sparse" in node.attrs or "MATLAB_object_decode" in node.attrs:
            return Foreign("sparse array or object")
        if isinstance(node, Group):
            # Members of a struct array are references without a class of their own.
            each = {n: self._value(node[n], f"{field}.{n}", depth - 1) for n in node}
            lists = [
                n for n in node if _is_reference(node[n]) and "MATLAB_class" not in node[n].attrs
            ]
            if not lists or len(lists) < len(each):
                return each
            shape = each[lists[0]].shape
            if any(each[n].shape != shape for n in lists):
                raise BadInput(f"{field} is a struct array whose fields differ in length")
            elements = [{n: each[n][at] for n in lists} for at in np.ndindex(shape)]
            return objects(elements, shape)
        return self._array(node, field, depth)

    def _array(self, node, field: str, depth: int) -> Any:
        kind = node.attrs.get("MATLAB_class", b"")
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        self._account(node, field)
        if node.attrs.get("MATLAB_empty", 0):
            if kind == "char":
                return ""
            return np.zeros((0, 0), object if kind in ("cell", "struct") else float)
        if _is_reference(node):
            self._count(node.size, field)
            refs = np.asarray(node[()]).T
            names = [element(field, at) for at in np.ndindex(refs.shape)]
            inner = [
                self._value(self._target(ref, name), name, depth - 1)
                for ref, name in zip(refs.flat, names, strict=True)
            ]
            return objects(inner, refs.shape)
        if node.dtype.kind not in "buif":
            return Foreign(f"array of {node.dtype}")
        values = np.asarray(node[()]).T
        if kind == "char":
            rows = [row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in values]
            return rows[0] if len(rows) == 1 else objects(rows, (len(rows), 1))
        if kind == "logical":
            values = values.astype(bool)
        return values if values.ndim >= 2 else values.reshape(-1, 1)

    def _count(self, more: int, field: str) -> None:
        if self.values + more >= MOST_VALUES:
            raise BadInput(f"{field}: over {MOST_VALUES} cells and arrays; refused")

    def _target(self, ref, field: str):
        if not ref:
            raise BadInput(f"{field} is an empty reference; the file is damaged")
        return self.h5.referred(ref, field)

    def _account(self, node, field: str) -> None:
        """Refuse an array by what it declares, before memory is taken."""
        declared = int(np.prod(node.shape or (), dtype=object)) * node.dtype.itemsize
        self.bytes += declared
        for unpacked, stored in ((declared, node.stored_bytes), (self.bytes, self.size)):
            refuse_bomb(field, unpacked, stored)


def _is_reference(node) -> bool:
    import h5py

    return isinstance(node, HDF5Array) and h5py.check_dtype(ref=node.dtype) is h5py.Reference

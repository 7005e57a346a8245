"""Small MATLAB files, v5 and v7.3, written as MATLAB lays them out."""

from itertools import count
from pathlib import Path

import h5py
import numpy as np
import scipy.io

NUMBERS = count()
HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema"


def cell(values, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A cell array; a column of cells where no shape is given."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape or (-1, 1))


def struct_array(elements: list[dict]) -> np.ndarray:
    """A struct array (1, elements)."""
    names = list(elements[0])
    array = np.empty((1, len(elements)), [(n, object) for n in names])
    for i, each in enumerate(elements):
        for n in names:
            array[0, i][n] = each[n]
    return array


def write_mat(path: Path, fields: dict, version: str = "7") -> Path:
    """Write a file of version 6 (v5, plain), 7 (v5, compressed) or 7.3 (HDF5)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if version != "7.3":
        scipy.io.savemat(path, fields, do_compression=version == "7", oned_as="column")
        return path
    with h5py.File(path, "w", userblock_size=512) as f:
        for name, value in fields.items():
            put(f, f, name, value)
    with path.open("r+b") as file:
        file.write(HEADER.ljust(124) + b"\x00\x02IM")
    return path


def put(f: h5py.File, group, name: str, value) -> None:
    """Write one value: axes reversed, cells as references to #refs#, classes as attributes."""
    if isinstance(value, dict):
        made = group.create_group(name)
        made.attrs["MATLAB_class"] = np.bytes_("struct")
        for key, inner in value.items():
            put(f, made, key, inner)
        return
    if isinstance(value, np.ndarray) and value.dtype.names:
        made = group.create_group(name)
        made.attrs["MATLAB_class"] = np.bytes_("struct")
        for key in value.dtype.names:
            _references(f, made, key, value[key])  # without a class: that is how one tells
        return
    if isinstance(value, np.ndarray) and value.dtype == object and value.size:
        _references(f, group, name, value).attrs["MATLAB_class"] = np.bytes_("cell")
        return
    kind = "double"
    if isinstance(value, str):
        kind, value = "char", np.array([[ord(c) for c in value]], np.uint16)
    value = np.atleast_2d(value)
    if value.shape[0] == 1 and kind != "char" and value.dtype == float and value.size > 1:
        value = value.reshape(-1, 1)
    if not value.size:
        made = group.create_dataset(name, data=np.array(value.shape, np.uint64))
        made.attrs["MATLAB_empty"] = np.uint8(1)
    else:
        made = group.create_dataset(name, data=value.T)
    made.attrs["MATLAB_class"] = np.bytes_("cell" if value.dtype == object else kind)


def _references(f: h5py.File, group, name: str, values: np.ndarray):
    refs, each = f.require_group("#refs#"), np.empty(values.shape, h5py.ref_dtype)
    for at in np.ndindex(values.shape):
        inner = f"n{next(NUMBERS)}"
        put(f, refs, inner, values[at])
        each[at] = refs[inner].ref
    return group.create_dataset(name, data=each.T, dtype=h5py.ref_dtype)

"""The benchmark's HDF5 layout, read and written: arrays by name, numbers of 32 bits, gzip.

Files that others wrote are read through `readers.hdf5`, which follows no link out of them. The key
names of early files (`train_data_heldin`) are read as those of now (`train_spikes_heldin`). The
trials of PSTH conditions are lists of whole numbers of different lengths.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import HDF5Group, open_hdf5, refuse_bomb

MOST_DEEP = 3
LATER_NAMES = {"train_data_": "train_spikes_", "eval_data_": "eval_spikes_"}
OLD_NAMES = {"train_spikes_": "train_data_", "eval_spikes_": "eval_data_"}


def read_h5(path: str | Path) -> dict[str, Any]:
    """All arrays of a file, groups as dictionaries; ragged lists as lists of arrays.

    Raises:
        BadInput: It is no HDF5 file, or holds what is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected the benchmark's HDF5 (.h5)")
    try:
        with open_hdf5(path) as root:
            return _group(root, path, 0)
    except OSError as e:
        raise BadInput(f"{path}: not a readable HDF5 file ({' '.join(str(e).split())})") from e


def _group(group: HDF5Group, path: Path, depth: int) -> dict[str, Any]:
    if depth > MOST_DEEP:
        raise BadInput(f"{path}: groups in groups of {group.path}; expected DATASET/array")
    found: dict[str, Any] = {}
    for name in group.names():
        member = group[name]
        if isinstance(member, HDF5Group):
            found[name] = _group(member, path, depth + 1)
            continue
        if member.dtype.kind not in "biufO":
            raise BadInput(f"{path}: {member.path} holds {member.dtype}; expected numbers")
        refuse_bomb(f"{path}: {member.path}", member.size * 8, max(member.stored_bytes, 1))
        found[renamed(name, LATER_NAMES)] = _values(member, path)
    return found


def _values(member: Any, path: Path) -> Any:
    values = member[()]
    if member.dtype.kind != "O":
        return np.asarray(values)
    lists = [np.asarray(part) for part in values]
    if any(part.dtype.kind not in "biuf" for part in lists):
        raise BadInput(f"{path}: {member.path} holds objects; expected lists of numbers")
    return [part.astype(np.int64) for part in lists]


def renamed(name: str, names: dict[str, str]) -> str:
    """A key with the beginning that `names` gives it, if any."""
    for begin, other in names.items():
        if name.startswith(begin):
            return other + name.removeprefix(begin)
    return name


def write_h5(path: str | Path, values: dict[str, Any], old_names: bool = False) -> Path:
    """Write arrays and dictionaries of them; an existing file is refused.

    Args:
        old_names: With the keys of early files, as scripts of NDT1 read them.
    """
    import h5py

    path = Path(path)
    if path.exists():
        raise BadInput(f"{path}: exists; choose another name or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    with h5py.File(partial, "w") as file:
        _write(file, values, OLD_NAMES if old_names else {})
    partial.replace(path)
    return path


def _write(group: Any, values: dict[str, Any], names: dict[str, str]) -> None:
    import h5py

    for name, value in values.items():
        if isinstance(value, dict):
            _write(group.create_group(name), value, names)
            continue
        key = renamed(name, names)
        if isinstance(value, list):
            lists = np.empty(len(value), object)
            lists[:] = [np.asarray(part, np.int32) for part in value]
            group.create_dataset(key, data=lists, dtype=h5py.vlen_dtype(np.int32))
            continue
        value = np.asarray(value)
        kind = {"f": np.float32, "i": np.int32, "u": np.int32}.get(value.dtype.kind, value.dtype)
        group.create_dataset(key, data=value.astype(kind), compression="gzip")

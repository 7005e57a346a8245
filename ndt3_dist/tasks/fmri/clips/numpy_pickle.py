"""Dictionaries that NumPy pickled into .npy files, read as data: nothing in them is ever run.

Files of sample numbers are published so, and submissions have to be. Arrays and numbers of any
NumPy are known, in protocols 2 to 4; whatever else a pickle names is refused.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.upstream.pickles import Inert, Name, Reader, brief

CORES = "numpy.core", "numpy._core"
KNOWN = {
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    *(f"{core}.multiarray.{name}" for core in CORES for name in ("_reconstruct", "scalar")),
}
KINDS = "fiub"


class NumpyReader(Reader):
    """The instructions that NumPy writes besides those of `pickles`."""

    def step(self, code: str, value: Any) -> None:
        if code == "FRAME":
            return
        if code in ("SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES"):
            self.stack.append(value)
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif code == "STACK_GLOBAL":
            name, module = self.stack.pop(), self.stack.pop()
            if type(name) is not str or type(module) is not str:
                raise self.refuse(f"names {brief(name)}")
            self.stack.append(self.name(module, name))
        else:
            super().step(code, value)


def build(kind: Name, args: tuple) -> Any:
    """Bytes that protocol 2 keeps as text; an Inert of all else."""
    if str(kind) == "_codecs.encode" and len(args) == 2 and args[1] == "latin1":
        return str(args[0]).encode("latin1")
    return Inert(kind, args)


def read_dictionary(path: str | Path) -> dict[str, Any]:
    """The dictionary of a .npy file, with arrays and whole numbers as such.

    Raises:
        BadInput: It is no such file, or holds something else.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("a header of another version")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError as e:
            raise BadInput(
                f"{path}: not a .npy file ({brief(e)}); fetch it again (datalad get, git lfs pull)"
            ) from e
        if not dtype.hasobject or shape != ():
            raise BadInput(f"{path}: holds an array of {dtype} {shape}, expected one dictionary")
        data = file.read()

    def refuse_storage(_: Any) -> Any:
        raise BadInput(f"{path}: refers to something outside of it; refused")

    reader = NumpyReader(str(path), lambda name: str(name) in KNOWN, build, refuse_storage)
    try:
        found = unwrap(reader.read(data), str(path))
    except CheckpointCorrupt as e:
        what = str(e).partition(";")[0]
        raise BadInput(f"{what}; expected a dictionary of arrays or numbers, none was run") from e
    if not isinstance(found, dict):
        raise BadInput(f"{path}: holds {brief(found)}, expected a dictionary")
    return found


def unwrap(value: Any, where: str) -> Any:
    """Plain data and arrays of what a pickle would have built."""
    if isinstance(value, dict):
        return {k: unwrap(v, f"{where}, {brief(k)}") for k, v in value.items()}
    if not isinstance(value, Inert):
        return value
    name = str(value.kind).rpartition(".")[2]
    if name == "scalar" and len(value.args) == 2:
        dtype = dtype_of(value.args[0], where)
        raw = value.args[1]
        if isinstance(raw, bytes) and len(raw) == dtype.itemsize:
            return np.frombuffer(raw, dtype)[0].item()
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, raw = value.state
        if shape == () and isinstance(raw, list) and len(raw) == 1:
            return unwrap(raw[0], where)
        if isinstance(raw, bytes) and is_shape(shape):
            return array_of(shape, dtype_of(dtype, where), bool(fortran), raw, where)
    raise BadInput(f"{where}: holds {brief(value)}; expected arrays of numbers")


def is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)


def array_of(shape: tuple, dtype: np.dtype, fortran: bool, raw: bytes, where: str) -> np.ndarray:
    found = np.frombuffer(raw, dtype)
    if found.size != np.prod(shape, dtype=object):
        raise BadInput(f"{where}: {found.size} values for an array of {shape}; fetch it again")
    return found.reshape(shape, order="F" if fortran else "C")


def dtype_of(value: Any, where: str) -> np.dtype:
    """Of numbers, as a pickle describes it. Raises BadInput for others."""
    if isinstance(value, Inert) and str(value.kind) == "numpy.dtype" and value.args:
        code, state = value.args[0], value.state
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if isinstance(code, str) and code[:1] in KINDS and code[1:] in ("1", "2", "4", "8"):
            return np.dtype(("" if order in ("|", "=") else order) + code)
    raise BadInput(f"{where}: holds values of another kind than numbers")

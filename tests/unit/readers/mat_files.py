"""Small MATLAB files, v5 and v7.3, written as MATLAB lays them out."""

import struct
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


TRAINS = [np.array([0.5, 1.25, 3.0]), np.zeros(0), np.array([0.25, 1.0])]
SECONDS = 4.0


def fields(**changes) -> dict:
    """Three channels, the second silent, and a 100 Hz velocity."""
    t = np.arange(round(SECONDS * 100)) / 100
    vel = np.column_stack([np.sin(t), np.cos(t)])
    return {"spikes": cell(TRAINS), "t": t, "vel": vel, **changes}


def rtt(channels: int = 96, units: int = 3, seconds: float = 6.0, **changes) -> dict:
    """A session at 250 Hz from 100 s on; the hash unit of channel 5 and all of channel 7 silent."""
    rng = np.random.default_rng(1)
    t = 100 + np.arange(round(seconds * 250)) / 250
    each = [np.sort(rng.uniform(100, 100 + seconds, 5)) for _ in range(channels * units)]
    spikes = cell(each, (channels, units))
    spikes[5, 0] = np.zeros((0, 0))
    for unit in range(units):
        spikes[7, unit] = np.zeros((0, 0))
    names = cell([f"{'M1' if c < 96 else 'S1'} {c % 96 + 1:03d}" for c in range(channels)])
    finger = np.column_stack([rng.normal(size=len(t)), -10 * np.sin(t), -20 * np.cos(t)])
    return {"spikes": spikes, "t": t, "finger_pos": finger, "chan_names": names, **changes}


def xds(seconds: float = 4.0, width: float = 0.001, **changes) -> dict:
    """Two units, a cursor, three muscles at 1 kHz from 0.5 s on; a spike and a move at 2.51 s."""
    t = 0.5 + np.arange(round(seconds / width)) * width
    move = np.zeros((len(t), 2))
    move[round(2.01 / width)] = (20.0, 0.0)
    inner = {
        "spikes": cell([np.array([2.51]), np.zeros((0, 0))], (1, 2)),
        "spike_counts": np.zeros((len(t), 2)),
        "time_frame": t,
        "bin_width": width,
        "curs_v": move,
        "EMG": np.column_stack([t, 2 * t, 3 * t]),
        "EMG_names": cell(["FCR", "FCU", "ECR"], (1, 3)),
        "force": move,
        "trial_result": cell(["R", "F"]),
        **changes,
    }
    inner["spike_counts"] = inner["spike_counts"].copy()
    inner["spike_counts"][round(2.01 / width), 0] = 1
    return {"xds": {k: v for k, v in inner.items() if v is not None}}


def trials(lengths=(260, 211, 190, 400), bin_size: float = 0.01, **changes) -> dict:
    """Trials of 10 ms bins, whose last bin alone has spikes and speed in PMd; 30 units in M1."""
    rng, made = np.random.default_rng(2), []
    for number, length in enumerate(lengths):
        pmd, vel = np.zeros((length, 3)), np.zeros((length, 2))
        pmd[-1], vel[-1] = 7, 7
        made.append(
            {
                "monkey": "Chewie",
                "trial_id": float(number),
                "bin_size": bin_size,
                "M1_spikes": rng.integers(0, 3, (length, 30)).astype(float),
                "PMd_spikes": pmd,
                "vel": vel + number + 1,
                **changes,
            }
        )
    return {"trial_data": struct_array(made)}


def v5_array(order: str, kind: int, shape: tuple[int, int], stored: int, data: bytes, size=None):
    """The array x as bytes: class, shape, stored type and data, which may lie about its size."""
    head = struct.pack(order + "IIII", 6, 8, kind, 0) + struct.pack(order + "IIii", 5, 8, *shape)
    head += struct.pack(order + "II", 1, 1) + b"x".ljust(8, b"\0")
    size = len(data) if size is None else size
    inner = head + struct.pack(order + "II", stored, size) + data.ljust(-(-len(data) // 8) * 8)
    return struct.pack(order + "II", 14, len(inner)) + inner

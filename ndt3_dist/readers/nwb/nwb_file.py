"""An NWB file as its groups and datasets, of HDF5 or of a Zarr store.

pynwb builds every object of a file before the first value can be read, which costs several times
the reading itself; what is needed here is little and fixed by the NWB 2 schema
(https://nwb-schema.readthedocs.io): tables with columns, and time series.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import FREE_BYTES, open_hdf5, refuse_bomb
from ndt3_dist.readers.inside import Group
from ndt3_dist.readers.nwb.zarr_store import open_zarr
from ndt3_dist.readers.on_disk import away, stands_for

STRINGS = 32
"""Strings that are read at once: all may be the same one, as long as the file."""
LABELS = ("labels", "columns", "column_names", "dimension_names", "dim_names", "names")
"""Datasets and attributes in which files name the columns of a series; NWB has none for it."""
PLACES = ("acquisition", "analysis", "processing", "scratch", "stimulus")
"""Groups of a file in which a recipe's paths begin."""


class NwbFile:
    """An open file of so many bytes: its root, and what was read of it."""

    def __init__(self, h5: Group, size: int):
        self.h5, self.size, self.unpacked = h5, size, 0

    def read(self, dataset, field: str) -> np.ndarray:
        """The values of a dataset, after a look at what it declares; strings as objects of str."""
        declared = dataset.size * max(dataset.dtype.itemsize, 8)  # numbers become float64
        self._count(field, declared, dataset.stored_bytes)
        if dataset.dtype.kind in "OS":
            return self._strings(dataset, field)
        return np.asarray(dataset[()])

    def _count(self, field: str, more: int, stored: int) -> None:
        self.unpacked += more
        refuse_bomb(field, more, stored)
        refuse_bomb(field, self.unpacked, self.size)

    def _strings(self, dataset, field: str) -> np.ndarray:
        """Strings, a few at a time: what they take shows when they are read."""
        import h5py

        if dataset.dtype.kind == "O" and not h5py.check_string_dtype(dataset.dtype):
            raise BadInput(f"{field} holds references or arrays; expected text")
        if not dataset.ndim:
            return np.array(as_str(dataset[()]), object)
        found, total = [], 0
        for start in range(0, len(dataset), STRINGS):
            some = [as_str(v) for v in np.ravel(dataset[start : start + STRINGS])]
            total += sum(map(len, some))
            if total > FREE_BYTES:
                raise BadInput(f"{field} holds more than {FREE_BYTES / 1e9:.0f} GB of text")
            found += some
        return np.array(found, object).reshape(dataset.shape)

    def numbers(self, dataset, field: str) -> np.ndarray:
        """The values of an array of numbers, as they are stored."""
        if dataset.dtype.kind not in "biuf" or not dataset.ndim:
            what = f"an array of {dataset.dtype}" if dataset.ndim else "a single value"
            raise BadInput(f"{field} is {what}; expected an array of numbers")
        return self.read(dataset, field)

    def text(self, path: str) -> str | None:
        """A string of the file, such as general/session_id."""
        found = self.h5.get(path)
        if found is None:
            return None
        return as_str(self.read(found, path)) if found.size else ""

    def table(self, path: str) -> "Table | None":
        found = self.h5.get(path)
        return None if found is None else Table(self, found, path)

    @property
    def units(self) -> "Table | None":
        return self.table("units")

    @property
    def electrodes(self) -> "Table | None":
        return self.table("general/extracellular_ephys/electrodes")

    def intervals(self) -> "dict[str, Table]":
        """Tables of intervals by name: trials, epochs and others."""
        return {
            name: Table(self, group, f"intervals/{name}")
            for name, group in groups(self.h5, "intervals")
            if group is not None
        }

    def children(self, path: str) -> dict[str, Any]:
        """Groups below a path ("" = those where recipes' paths begin), by name; None for what lies
        in another file, which is refused once it is read."""
        if not path:
            known = {name: group for name, group in groups(self.h5, "") if name in PLACES}
            usual = ("acquisition", "processing")
            return {n: g for n, g in known.items() if g is None or len(g) or n in usual}
        return {} if is_series(self.h5[path]) else dict(groups(self.h5, path))

    def series(self, path: str) -> "TimeSeries | None":
        """The series at a path; None where there is something else, or nothing."""
        path = path.strip("/")
        group = self.h5.get(path) if path.split("/")[0] in PLACES else None
        return TimeSeries(self, group, path) if group is not None and is_series(group) else None


class TimeSeries:
    """Samples with a clock: a group with `data` and timestamps, or a rate."""

    def __init__(self, nwb: NwbFile, group, path: str):
        self.nwb, self.group, self.path = nwb, group, path
        self.name = path.rsplit("/", 1)[-1]

    def data(self) -> np.ndarray:
        """Samples as they are stored, (samples, ...)."""
        return self.nwb.numbers(self.group["data"], f"{self.path}/data")

    def timestamps(self) -> np.ndarray | None:
        """Time of each sample in s, (samples,) float64; None where the file gives a rate."""
        if "timestamps" not in self.group:
            return None
        times = self.nwb.numbers(self.group["timestamps"], f"{self.path}/timestamps")
        return times.astype(np.float64, copy=False).ravel()

    def num_timestamps(self) -> int | None:
        """Their number; None where the file gives a rate."""
        return self.group["timestamps"].size if "timestamps" in self.group else None

    @property
    def rate(self) -> float | None:
        """In Hz; None where the file says none."""
        start = self.group.get("starting_time")
        if start is None or "rate" not in start.attrs:
            return None
        return number(start.attrs["rate"], f"{self.path}: its rate")

    @property
    def starting_time(self) -> float:
        """In s; 0 where the file says none."""
        start = self.group.get("starting_time")
        return 0.0 if start is None else number(start[()], f"{self.path}/starting_time")

    def attribute(self, name: str, default: float) -> float:
        """A number beside the data: its conversion or offset."""
        return number(self.group["data"].attrs.get(name, default), f"{self.path}: its {name}")

    def channel_conversion(self) -> np.ndarray | None:
        """What each channel of the data is multiplied by besides, (channels,); None where the file
        says nothing."""
        if "channel_conversion" not in self.group:
            return None
        found = self.nwb.numbers(
            self.group["channel_conversion"], f"{self.path}/channel_conversion"
        )
        return found.astype(np.float64, copy=False).ravel()

    @property
    def unit(self) -> str:
        return as_str(self.group["data"].attrs.get("unit", ""))

    @property
    def kind(self) -> str:
        """Such as TimeSeries or SpatialSeries."""
        return as_str(self.group.attrs.get("neurodata_type", ""))

    def labels(self, dims: int) -> Iterator[list[str]]:
        """Whatever the file calls names of this many columns, beside the data or on it."""
        for key in LABELS:
            found = self.group.get(key)
            if holds_text(found) and found.size in (1, dims):
                yield split_up(self.nwb.read(found, f"{self.path}/{key}"))
            for attributes in (self.group.attrs, self.group["data"].attrs):
                if key in attributes:
                    yield split_up(attributes[key])

    def electrodes(self) -> np.ndarray | None:
        """Rows of the electrodes table that the series is of; None where it does not say."""
        if "electrodes" not in self.group:
            return None
        return np.atleast_1d(self.nwb.read(self.group["electrodes"], self.path))


class Table:
    """A DynamicTable: columns of one length, ragged ones with an index of where each row ends."""

    def __init__(self, nwb: NwbFile, group, path: str):
        self.nwb, self.group, self.path = nwb, group, path
        said = group.attrs.get("colnames")
        if said is None:  # required, but some writers leave it out
            named = [n for n in group if n != "id" and not n.endswith("_index")]
        else:
            named = [n.strip() for text in np.ravel(said) for n in as_str(text).split(",")]
        self.colnames = [name for name in named if name in group]

    def __len__(self) -> int:
        if "id" not in self.group:
            raise BadInput(f"{self.path} has no ids; the file is damaged")
        return self.group["id"].size

    def is_ragged(self, name: str) -> bool:
        return f"{name}_index" in self.group

    def dtype(self, name: str) -> np.dtype:
        return self._dataset(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._dataset(name).shape

    def column(self, name: str) -> np.ndarray:
        """All values of a column; strings as objects of str."""
        return flat(self.nwb.read(self._dataset(name), f"{self.path}/{name}"))

    def rows(self, name: str) -> np.ndarray:
        """A column with one value a row."""
        values = self.column(name)
        if values.shape != (len(self),):
            raise BadInput(
                f"{self.path}/{name} has shape {values.shape}, the table {len(self)} rows; "
                "expected one value a row"
            )
        return values

    def numbers(self, name: str) -> np.ndarray:
        """All values of a column of numbers, float64."""
        found = self.nwb.numbers(self._dataset(name), f"{self.path}/{name}")
        return flat(found).astype(np.float64, copy=False)

    def _dataset(self, name: str):
        try:
            return self.group[name]
        except (RuntimeError, KeyError) as e:
            raise BadInput(f"{self.path}/{name} is a link that leads nowhere") from e

    def ends(self, name: str, values: int) -> np.ndarray:
        """Where the values of each row of a ragged column end, (rows,) int64.

        Raises:
            BadInput: They do not divide its values among the rows.
        """
        ends = self.numbers(f"{name}_index").astype(np.int64)
        fits = len(ends) == len(self) and len(ends) and (np.diff(ends, prepend=0) >= 0).all()
        if not fits or ends[-1] != values:
            raise BadInput(
                f"{self.path}/{name}_index does not divide the {values} values of "
                f"{self.path}/{name} among {len(self)} rows; the file is damaged"
            )
        return ends


@contextmanager
def open_nwb(path: Path) -> Iterator[NwbFile]:
    """Open a file; whatever goes wrong within is one BadInput that names it."""
    try:
        with root_of(path) as (root, size):
            nwb = NwbFile(root, size)
            check_version(nwb)
            yield nwb
    except BadInput as e:
        message = str(e)
        raise BadInput(message if str(path) in message else f"{path}: {message}") from e
    except (Exception, MemoryError) as e:
        # h5py raises anything from KeyError to RuntimeError on a damaged file.
        reason = " ".join(str(e).split())[:200]
        raise BadInput(f"{path}: not a readable NWB file ({type(e).__name__}: {reason})") from e


@contextmanager
def root_of(path: Path) -> Iterator[tuple[Group, int]]:
    """The root of a file or of a store, and its bytes."""
    import h5py

    if path.is_dir():
        yield open_zarr(path)
        return
    if not path.is_file():
        raise BadInput(f"{path}: {away(path) or 'no such file'}")
    if not h5py.is_hdf5(path):
        what = stands_for(path) or "not HDF5"
        raise BadInput(f"{path}: not an NWB file ({what}); expected NWB 2 recordings (.nwb)")
    with open_hdf5(path) as h5:
        yield h5, path.stat().st_size


def check_version(nwb: NwbFile) -> None:
    """Raise BadInput for any NWB but 2; NWB 1 says its version in a dataset."""
    said = nwb.h5.attrs.get("nwb_version")
    version = as_str(nwb.text("nwb_version") or "" if said is None else said)
    if not version.startswith("2"):
        text = f"NWB {version.removeprefix('NWB-')}" if version else "no nwb_version"
        raise BadInput(f"not a readable NWB file ({text}); expected NWB 2")


def groups(h5: Group, path: str) -> Iterator[tuple[str, Group | None]]:
    """Name and group of each group that lies at a path; None for what lies in another file."""
    found = h5.get(path)
    return found.groups() if isinstance(found, Group) else iter(())


def flat(values: np.ndarray) -> np.ndarray:
    """(n,) of what was written as (n, 1) or (n, 1, 1); anything else as it is."""
    return values.ravel() if values.ndim > 1 and values.size == len(values) else values


def number(value: Any, field: str) -> float:
    try:
        return float(value.item() if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError) as e:
        raise BadInput(f"{field} is {value!r}; expected a number") from e


def split_up(value: Any) -> list[str]:
    """Names in an array of text, or in one text between commas; none in anything else."""
    if not all(isinstance(v, str | bytes) for v in np.ravel(np.asarray(value, object))):
        return []
    texts = [as_str(v) for v in np.ravel(np.asarray(value, object))]
    return texts[0].split(",") if len(texts) == 1 else texts


def is_dataset(found: Any) -> bool:
    return found is not None and not isinstance(found, Group)


def holds_text(found: Any) -> bool:
    import h5py

    return is_dataset(found) and h5py.check_string_dtype(found.dtype) is not None


def is_series(group) -> bool:
    if not isinstance(group, Group) or "colnames" in group.attrs:  # a table's column
        return False
    return is_dataset(group.get("data"))


def as_str(value: Any) -> str:
    """Text as h5py gives it: bytes, str, an array of one of them, or Empty."""
    import h5py

    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0 ")
    if isinstance(value, np.ndarray | h5py.Reference):
        raise BadInput(f"found {type(value).__name__} of {np.size(value)} where text is expected")
    return str(value)

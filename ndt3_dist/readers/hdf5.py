"""HDF5 files that somebody hands us, through h5py: opened, walked, read, and not trusted.

Refused, each where it is read and in one line: what lies in other files, bombs, filters that are
not there. Nothing is read to find out: links and the headers of datasets are looked at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.inside import Group, elsewhere

MOST_BYTES = 64 << 30
"""No array of a recording unpacks to more."""
FREE_BYTES = 1 << 30
MOST_RATIO = 1000
"""Beyond FREE_BYTES, nothing may be so many times larger unpacked than on disk."""
FILTERS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
"""Registered filters that files have and HDF5 itself does not."""


@contextmanager
def open_hdf5(path: Path) -> Iterator["HDF5Group"]:
    """The root of a file. Raises BadInput where another process holds it."""
    import h5py

    try:
        h5 = h5py.File(path, "r")
    except OSError as e:
        if "unable to lock file" not in str(e):
            raise
        raise BadInput(
            f"{path}: locked by another process, which may still write it; close it there, or set "
            "HDF5_USE_FILE_LOCKING=FALSE where the file system has no locks"
        ) from e
    with h5:
        yield HDF5Group(h5)


def refuse_bomb(field: str, unpacked: int, stored: int) -> None:
    """Raise BadInput where so much is not to be unpacked from so little."""
    if unpacked > MOST_BYTES or (unpacked > FREE_BYTES and unpacked > MOST_RATIO * stored):
        raise BadInput(
            f"{field} declares {unpacked / 1e9:.1f} GB in {stored / 1e6:.1f} MB of the file; "
            "refused"
        )


class HDF5Group(Group):
    """A group of an open file."""

    def __init__(self, h5, path: str = "", root: "HDF5Group | None" = None):
        super().__init__(path, root)
        self.h5, self.attrs = h5, h5.attrs

    def names(self) -> list[str]:
        return list(self.h5)

    def target(self, name: str) -> str | None:
        from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

        links, raw = self.h5.id.links, name.encode("utf-8", "surrogateescape")
        if not links.exists(raw):
            raise KeyError(name)
        kind = links.get_info(raw).type
        if kind == h5l.TYPE_HARD:
            return None
        if kind != h5l.TYPE_SOFT:
            raise elsewhere(self.below(name))
        return links.get_val(raw).decode("utf-8", "surrogateescape")

    def member(self, name: str) -> "HDF5Group | HDF5Array":
        return self._wrapped(self.h5[name], self.below(name))

    def referred(self, reference, path: str) -> "HDF5Group | HDF5Array":
        """What an object reference leads to, which is never another file.

        Args:
            path: What it is called in messages.
        """
        return self._wrapped(self.root.h5[reference], path)  # pyright: ignore

    def _wrapped(self, found, path: str) -> "HDF5Group | HDF5Array":
        import h5py

        if isinstance(found, h5py.Group):
            return HDF5Group(found, path, self.root)  # pyright: ignore
        if isinstance(found, h5py.Dataset):
            return HDF5Array(found, path, self.root)
        raise KeyError(path)  # a named type, which holds nothing


class HDF5Array:
    """A dataset of an open file; where its values are, and packed how, is looked at before they
    are read."""

    def __init__(self, dataset, path: str, root: Group):
        self.dataset, self.path, self.root = dataset, path, root
        self.attrs, self.dtype = dataset.attrs, dataset.dtype
        self.shape, self.size, self.checked = dataset.shape, dataset.size, False
        self.missing = ""  # why a filter of it cannot be had, once that was looked at

    @property
    def ndim(self) -> int:
        return self.dataset.ndim

    @property
    def stored_bytes(self) -> int:
        """Of its values in the file."""
        return self.dataset.id.get_storage_size()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at) -> Any:
        if not self.checked:
            self.check(shows_others=True)
            self.checked = True
        try:
            return self.dataset[at]
        except OSError as e:
            if not self.missing:
                raise
            raise BadInput(f"{self.path} is compressed by {self.missing}") from e

    def check(self, shows_others: bool) -> None:
        """Raise BadInput where values are in another file; see which filter is not there.

        Args:
            shows_others: Whether it may show parts of other arrays of the file.
        """
        from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]

        made = self.dataset.id.get_create_plist()
        shows = made.get_layout() == h5d.VIRTUAL
        parts = range(made.get_virtual_count() if shows else 0)
        outside = any(made.get_virtual_filename(i) != "." for i in parts)
        if made.get_external_count() or outside:
            raise BadInput(f"{self.path} keeps its data in another file; refused")
        if shows and not shows_others:
            raise BadInput(f"{self.path} is shown by an array and shows others itself; refused")
        for name in {made.get_virtual_dsetname(i) for i in parts}:
            shown = None if "%" in name else self.root.get(f"/{name}")  # % makes other names
            if not isinstance(shown, HDF5Array):
                raise BadInput(f"{self.path} shows parts of {name}, which is no array; refused")
            shown.check(shows_others=False)
            self.missing = self.missing or shown.missing
        for i in range(made.get_nfilters()):
            code, _, _, name = made.get_filter(i)
            self.missing = self.missing or missing_filter(code, name)


def missing_filter(code: int, name: bytes) -> str:
    """Why a filter cannot be had, after a look for hdf5plugin; "" where it is there."""
    from h5py import h5z  # pyright: ignore[reportAttributeAccessIssue]

    if h5z.filter_avail(code):
        return ""
    said = FILTERS.get(code) or ascii(name.decode("utf-8", "replace"))[1:-1][:32] or "unnamed"
    what = f"the HDF5 filter {code} {said}"
    try:
        import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return f"{what}; `pip install hdf5plugin` or ndt3_dist[filters] reads it"
    if h5z.filter_avail(code):
        return ""
    return f"{what}, which hdf5plugin does not have; write it anew with gzip"

"""Features of films: a folder for each stream, a file for each clip, one row per sample of BOLD.

Files are .npy, .pt (one tensor) or .h5 (an array for each layer). A file belongs to the clip that
its name is, with or without a known prefix, and to no other: names that only contain a clip's are
not taken for it. Rows are read from where they lie, so that a tree of any size takes no memory.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import open_hdf5
from ndt3_dist.tasks.fmri.clips.clip_names import clip_of
from ndt3_dist.tasks.fmri.clips.torch_array import map_tensor

ENDINGS = ".npy", ".pt", ".h5"
SHOWN = 8
OPENED = 256
"""Headers that are kept of files that were read."""


class FeatureTree:
    """Streams of features.

    Attributes:
        root: Folder that the streams' folders lie in.
        files: Stream -> clip -> its file.
        layers: Stream -> array of its .h5 files; "" where they have one.
        dims: Columns of each stream, in the order of the streams.
    """

    def __init__(self, root: str | Path, streams: Mapping[str, str]):
        """
        Args:
            streams: Name -> folder below the root, with #LAYER for an array of .h5 files.
        Raises:
            BadInput: A folder is not there, leads out of the root or has no files; two files are of
                one clip.
        """
        self.root, self.layers = Path(root), {}
        self.files: dict[str, dict[str, Path]] = {}
        self._opened: dict[tuple[str, str], Rows] = {}
        for stream, place in streams.items():
            folder, _, self.layers[stream] = place.partition("#")
            self.files[stream] = self._find(stream, folder)
        if not self.files:
            raise BadInput(f"{root}: no stream is named; expected name -> folder below it")
        self.dims = {s: self.opened(s, min(files)).dims for s, files in self.files.items()}

    def _find(self, stream: str, folder: str) -> dict[str, Path]:
        place = self.root / folder
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise BadInput(f"stream {stream}: folder {folder!r} leads out of {self.root}")
        if not place.is_dir():
            raise BadInput(f"stream {stream}: no folder {place}")
        found: dict[str, Path] = {}
        for path in sorted(p for p in place.rglob("*") if p.suffix in ENDINGS):
            clip = clip_of(path.stem)
            if clip in found:
                raise BadInput(
                    f"stream {stream}: {found[clip]} and {path} are both of clip {clip}; keep one"
                )
            found[clip] = path
        if not found:
            raise BadInput(f"stream {stream}: no {', '.join(ENDINGS)} below {place}")
        return found

    def check(self, clips: Iterable[str]) -> None:
        """Raise BadInput that names each stream's clips without a file."""
        said = []
        for stream, files in self.files.items():
            if lost := sorted({*clips} - {*files}):
                more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
                said.append(f"stream {stream} has no file of {', '.join(lost[:SHOWN])}{more}")
        if said:
            raise BadInput(
                f"{self.root}: {'; '.join(said)} (a file is named after its clip, as s01e01a.npy "
                "or friends_s01e01a.npy); leave clips out with data.exclude"
            )

    def opened(self, stream: str, clip: str) -> "Rows":
        """The rows of a stream in a clip."""
        if (stream, clip) not in self._opened:
            while len(self._opened) >= OPENED:
                del self._opened[next(iter(self._opened))]
            rows = Rows(self.files[stream][clip], self.layers[stream])
            dims = getattr(self, "dims", {}).get(stream, rows.dims)
            if rows.dims != dims:
                raise BadInput(
                    f"{rows.path}: {rows.dims} columns, others of stream {stream} have {dims}"
                )
            self._opened[stream, clip] = rows
        return self._opened[stream, clip]

    def rows(self, clip: str) -> int:
        """Rows of the shortest stream."""
        return min(len(self.opened(stream, clip)) for stream in self.files)

    def read(self, clip: str, start: int, stop: int) -> np.ndarray:
        """Rows of all streams side by side, (rows, dims) float32; the last one is repeated where
        a file has fewer."""
        at = np.arange(start, stop)
        return np.concatenate(
            [self.opened(s, clip).read(at) for s in self.files], axis=1, dtype=np.float32
        )


class Rows:
    """A file of features, squeezed to two dimensions.

    Attributes:
        path: Of the file.
        dims: Its columns.
    """

    def __init__(self, path: Path, layer: str):
        self.path, self.layer, self.is_half = path, layer, False
        self.array: np.ndarray | None = None
        if path.suffix == ".npy":
            try:
                self.array = np.lib.format.open_memmap(path, mode="r")
            except (ValueError, OSError) as e:
                raise BadInput(f"{path}: not a .npy array of numbers ({e})") from e
            self.shape, self.kind = self.array.shape, self.array.dtype.kind
        elif path.suffix == ".pt":
            self.array, self.is_half = map_tensor(path)
            self.shape, self.kind = self.array.shape, self.array.dtype.kind
        else:
            with open_hdf5(path) as root:
                self.layer = layer or self._only(root.names())
                found = root.get(self.layer)
                if found is None:
                    raise BadInput(
                        f"{path}: no array {self.layer}; there are {', '.join(root.names()[:8])}"
                    )
                self.shape, self.kind = found.shape, found.dtype.kind
        leading = next((i for i, n in enumerate(self.shape) if n > 1), 0)
        if self.kind not in "fiu" or not self.shape or 0 in self.shape:
            raise BadInput(f"{path}: {self.shape} of {self.kind}; expected numbers (rows, dims)")
        self.leading = 0 if len(self.shape) <= 2 else leading
        self.dims = int(np.prod(self.shape[self.leading + 1 :], dtype=int))

    def _only(self, names: list[str]) -> str:
        if len(names) != 1:
            raise BadInput(
                f"{self.path}: has {', '.join(names[:8])}; say which as FOLDER#NAME of the stream"
            )
        return names[0]

    def __len__(self) -> int:
        return self.shape[self.leading]

    def read(self, at: np.ndarray) -> np.ndarray:
        """Some consecutive rows, (rows, dims) float32, the last one for those beyond the end."""
        start, stop = int(at[0]), int(at[-1]) + 1
        first = min(start, len(self) - 1)
        inside = slice(first, max(min(stop, len(self)), first + 1))
        before = (0,) * self.leading
        if self.array is None:
            with open_hdf5(self.path) as root:
                part = root[self.layer][(*before, inside)]
        else:
            part = np.array(self.array[(*before, inside)])
        if self.is_half:
            part = (part.astype(np.uint32) << 16).view(np.float32)
        part = part.reshape(len(part), self.dims).astype(np.float32)
        return part[np.minimum(at - first, len(part) - 1)]

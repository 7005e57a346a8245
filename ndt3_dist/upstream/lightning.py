"""Upstream's Lightning checkpoints, read without upstream's code and without running theirs.

The pickle is read as plain data (`pickles`): NDT3's own classes become inert records, and tensors a
`View` of a storage, whose bytes are read when they are asked for. Other classes and functions are
refused by name, and so are storages and views that do not have the bytes they claim.

Source: torch._utils of torch 2.13; checkpoints of joel99/ndt3 at 472466a.
"""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ndt3_dist import storage
from ndt3_dist.upstream.pickles import Inert, Name, Reader, brief
from ndt3_dist.upstream.torch_zip import MOST_PICKLE_BYTES, TorchZip

PACKAGES = ("context_general_bci", "omegaconf", "pathlib", "typing", "enum", "deepspeed")
"""Packages of which any name may occur; nothing of them is imported or called."""

PLAIN = "bool bytes complex dict float frozenset int list long object set str tuple unicode"

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
ALLOWED = {
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in PLAIN.split()),
    *(f"torch.{name}" for name in DTYPES),
    *(str(dtype) for dtype in DTYPES.values()),
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "collections.OrderedDict",
    "collections.defaultdict",
    "yacs.config.CfgNode",  # a dictionary: the config of NDT1's checkpoints
}
"""Other names that may occur."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A member of the archive that holds tensors: its number, dtype, elements."""

    key: str
    dtype: torch.dtype
    elements: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: its storage, first element, shape, and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class LightningFile(TorchZip):
    """A checkpoint opened for reading; use it in a `with` block.

    Attributes:
        content: What the pickle holds, as plain data, Inert records and Views.
        origin: What was asked for: the file, or the folder that it lies in.
    Raises:
        CheckpointCorrupt: It is damaged, or holds what is refused; names it.
        Unsupported: It has torch's format before 1.6, or another byte order.
    """

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.origin = self.path
        self.kept: tuple[Storage, torch.Tensor] | None = None  # that was read last
        self.reader = Reader(f"{self.path}: data.pkl", is_known, self._build, self._storage)
        try:
            content = self.reader.read(self.read("data.pkl", MOST_PICKLE_BYTES))
            self.content: dict = self.checked(content)
        except BaseException:
            self.archive.close()
            raise

    def checked(self, content: Any) -> dict:
        """What the pickle holds, if that is what such a file has to hold."""
        if type(content) is not dict:
            raise self.corrupt(f"data.pkl holds {brief(content)}, expected a dictionary")
        return content

    def _storage(self, id_: Any) -> Storage:
        """Resolve `("storage", type, number, device, elements)`; the member must have them."""
        if type(id_) is not tuple or len(id_) != 5 or id_[0] != "storage":
            raise self.reader.refuse(f"refers to {brief(id_)}, which is no storage")
        _, kind, key, _, elements = id_
        dtype = DTYPES.get(kind.name) if type(kind) is Name and kind.module == "torch" else None
        if dtype is None or type(key) is not str or not re.fullmatch(r"[0-9]{1,9}", key):
            raise self.reader.refuse(f"refers to storage {brief(key)} of {brief(kind)}")
        found = self.member(f"data/{key}").file_size
        if type(elements) is not int or elements * dtype.itemsize != found:
            raise self.corrupt(
                f"data/{key} has {found} bytes, data.pkl has {brief(elements)} of {dtype}"
            )
        return Storage(key, dtype, elements)

    def _build(self, kind: Name, args: tuple) -> Any:
        """Plain data for the few names that stand for it; an Inert for all others."""
        match str(kind), args:
            case "collections.OrderedDict" | "yacs.config.CfgNode", ():
                return {}
            case "collections.defaultdict", () | (Name(),):
                return {}
            case "torch.Size", (tuple() as size,):
                return size
            case "torch._utils._rebuild_parameter", (View() as view, bool(), dict()):
                return view
            case (
                "torch._tensor._rebuild_from_type_v2",  # one that has attributes
                (Name("torch._utils") as inner, Name(), tuple() as args, _),
            ):
                return self._build(inner, args)
            case (
                "torch._utils._rebuild_tensor_v2",
                (
                    Storage() as held,
                    offset,
                    tuple() as shape,
                    tuple() as stride,
                    bool(),
                    dict(),
                    *_,
                ),
            ):
                return self._view(held, offset, shape, stride)
        if (
            kind.module in ("collections", "torch._utils", "torch._tensor")
            or str(kind) == "torch.Size"
        ):
            raise self.reader.refuse(f"builds a {kind} from unexpected arguments")
        return Inert(kind, args)

    def _view(self, held: Storage, offset: Any, shape: tuple, stride: tuple) -> View:
        """A view that stays inside its storage and is no larger."""
        if any(type(n) is not int or not 0 <= n < 2**63 for n in (offset, *shape, *stride)):
            raise self.corrupt(
                f"a tensor in data/{held.key} has an offset, shape or stride that is no whole "
                "number below 2^63"
            )
        if len(shape) != len(stride) or len(shape) > 8:
            raise self.corrupt(f"a tensor in data/{held.key} has {len(shape)} dimensions")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if prod(shape) > held.elements or (prod(shape) and last >= held.elements):
            raise self.corrupt(
                f"a tensor of shape {brief(str(shape))} in data/{held.key} does not fit its "
                f"{held.elements} elements"
            )
        return View(held, offset, shape, stride)

    def sha256(self) -> str:
        return storage.sha256_file(self.path)

    def elements(self, held: Storage) -> torch.Tensor:
        """All elements of a storage, (elements,), in memory of its own."""
        data = bytearray(self.read(f"data/{held.key}"))
        return (
            torch.frombuffer(data, dtype=held.dtype) if data else torch.empty(0, dtype=held.dtype)
        )

    def tensor(self, view: View) -> torch.Tensor:
        """The tensor of a view, contiguous, in its own dtype and memory."""
        if self.kept is None or self.kept[0] != view.storage:
            self.kept = None  # freed before more is allocated
            self.kept = view.storage, self.elements(view.storage)
        return place(self.kept[1], view).clone(memory_format=torch.contiguous_format)

    def tensors(self, views: dict[str, View]) -> dict[str, torch.Tensor]:
        """Tensors for one export, float32, each storage read once.

        Raises:
            CheckpointCorrupt: They are more than twice what their storages hold, so that the file's
                size would not bound them; or one has values that are not finite.
        """
        held = sum(s.elements for s in {view.storage for view in views.values()})
        if (asked := sum(prod(view.shape) for view in views.values())) > 2 * held:
            raise self.corrupt(f"{asked:,} elements of tensors share the same {held:,}")
        found = {}
        for key in sorted(views, key=lambda key: int(views[key].storage.key)):
            found[key] = self.tensor(views[key]).float()
            if not found[key].isfinite().all():
                raise self.corrupt(
                    f"{key} has values that are not finite, as after a run that diverged"
                )
        self.kept = None
        return {key: found[key] for key in views}


def place(elements: torch.Tensor, view: View) -> torch.Tensor:
    """A view in the elements of its storage."""
    return elements.as_strided(view.shape, view.stride, view.offset)


def is_known(name: Name) -> bool:
    """Whether a checkpoint of upstream's may hold this name."""
    return name.module.split(".")[0] in PACKAGES or str(name) in ALLOWED

"""One tensor of a .pt file, mapped into memory: nothing is unpickled, nothing read ahead."""

from pathlib import Path

import numpy as np
import torch

from ndt3_dist.errors import BadInput
from ndt3_dist.upstream.lightning import LightningFile, View


class TensorFile(LightningFile):
    """A file that holds a tensor, or a dictionary with one."""

    def checked(self, content: object) -> dict:
        found = content if isinstance(content, dict) else {"": content}
        if sum(isinstance(value, View) for value in found.values()) != 1:
            raise BadInput(f"{self.path}: expected one tensor in it, as torch.save writes it")
        return found

    def mapped(self) -> np.ndarray:
        """The tensor over the bytes of the file; bfloat16 as its upper halves, uint16."""
        (view,) = (value for value in self.content.values() if isinstance(value, View))
        dtype = view.storage.dtype
        seen_as = torch.uint16 if dtype == torch.bfloat16 else dtype
        kind = torch.empty(0, dtype=seen_as).numpy().dtype
        if not view.storage.elements:
            return np.zeros(view.shape, kind)
        begin = self.data_offset(self.member(f"data/{view.storage.key}"))
        flat = np.memmap(self.path, kind, "r", begin, (view.storage.elements,))
        strides = tuple(step * kind.itemsize for step in view.stride)
        return np.lib.stride_tricks.as_strided(
            flat[view.offset :], view.shape, strides, writeable=False
        )


def map_tensor(path: Path) -> tuple[np.ndarray, bool]:
    """The tensor of a .pt file, and whether its values are halves of float32 (bfloat16)."""
    with TensorFile(path) as file:
        (view,) = (value for value in file.content.values() if isinstance(value, View))
        return file.mapped(), view.storage.dtype == torch.bfloat16

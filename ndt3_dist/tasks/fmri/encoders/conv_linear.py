"""The convolution-and-linear encoder: the best quality for its time.

Each stream goes through a matrix to a common width and a convolution over time of each of its
channels; the sum of streams is read by a head with a part of each subject.

Source: MedARC's entry to Algonauts 2025 (specs/algonauts.md, section 4).
"""

from typing import Any

import torch
from torch import nn

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.encoders.encoder import Encoder, SubjectHead


class ConvLinear(Encoder):
    """Options besides those of all: width (192), kernel (45 samples, odd)."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        width, kernel = int(options.get("width", 192)), int(options.get("kernel", 45))
        if kernel % 2 == 0:
            raise BadInput(f"model.kernel is {kernel}; expected an odd number of samples")
        self.inward = nn.ModuleDict({n: nn.Linear(d, width) for n, d in self.dims.items()})
        self.over_time = nn.ModuleDict(
            {
                n: nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
                for n in self.dims
            }
        )
        self.head = SubjectHead(width, self.subjects, self.parcels)

    def encode(self, streams: dict[str, torch.Tensor], inside: torch.Tensor) -> torch.Tensor:
        total = 0
        for name, values in streams.items():
            x = self.inward[name](values) * inside[..., None]
            total = total + self.over_time[name](x.transpose(1, 2)).transpose(1, 2)
        return self.head(total)

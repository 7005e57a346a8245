"""What the model reads: windows as flat, packed tokens.

Tokens of a window are ordered by bin; within a bin constraint, spikes, return, covariates. Content
lies by modality with the slot it belongs to, so that nothing is padded; `time` and `space` are
given for every slot. The model itself rolls the content by one.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch


@dataclass
class PackedTokens:
    """One or more rows laid end to end. Tensors, all on one device.

    Attributes:
        cu_seqlens: Segment borders, (segments + 1,) int32.
        time: Bin of each slot inside its window, (tokens,) int64.
        space: Space id of each slot, (tokens,) int64.
        spikes: Counts of each neural token, (spike_tokens, channels_per_token) uint8.
        spike_channels: Real channels of each neural token, (spike_tokens,) int64; the rest is pad.
        spike_slot: Slot of each neural token, (spike_tokens,) int64.
        covariates: Value of each token in [-1, 1], 0 where not valid, (covariate_tokens,).
        covariate_valid: Whether it is a target, (covariate_tokens,) bool.
        covariate_slot: (covariate_tokens,) int64.
        covariate_blank: Whether its value is hidden as an input, (covariate_tokens,) bool.
        constraint: Triplets, (constraint_tokens, 3) float32.
        constraint_slot: (constraint_tokens,) int64.
        returns: Return-to-go and reward, each + 1 and 0 where absent, (return_tokens, 2) int64.
        return_slot: (return_tokens,) int64.
        seqlens: Segment lengths on the host.
    """

    cu_seqlens: torch.Tensor
    time: torch.Tensor
    space: torch.Tensor
    spikes: torch.Tensor
    spike_channels: torch.Tensor
    spike_slot: torch.Tensor
    covariates: torch.Tensor
    covariate_valid: torch.Tensor
    covariate_slot: torch.Tensor
    covariate_blank: torch.Tensor
    constraint: torch.Tensor
    constraint_slot: torch.Tensor
    returns: torch.Tensor
    return_slot: torch.Tensor
    seqlens: list[int]

    @classmethod
    def from_numpy(cls, arrays: dict[str, np.ndarray], device: torch.device | str = "cpu"):
        """From the arrays of `data.tokens`, which bear the names above."""
        names = [f.name for f in fields(cls) if f.name != "seqlens"]
        tensors = together([torch.from_numpy(arrays[name]) for name in names], device)
        seqlens = np.diff(arrays["cu_seqlens"]).tolist()
        return cls(**dict(zip(names, tensors, strict=True)), seqlens=seqlens)

    @property
    def num_tokens(self) -> int:
        return len(self.time)


def together(tensors: list[torch.Tensor], device: torch.device | str) -> list[torch.Tensor]:
    """Tensors of the host on a device; to a GPU in one copy, which nobody waits for."""
    if torch.device(device).type == "cpu":
        return tensors
    starts = np.cumsum([0, *(-(-t.nbytes // 16) * 16 for t in tensors)]).tolist()
    # From pinned memory: else the copy waits for what the GPU does now.
    held = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    for start, tensor in zip(starts, tensors, strict=False):
        held[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    there = held.to(device, non_blocking=True)
    return [
        there[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for start, tensor in zip(starts, tensors, strict=False)
    ]

"""What the model reads: windows as flat, packed tokens.

Tokens of a window are ordered by bin; within a bin constraint, spikes, return, covariates. Before
them come its identities, if it has any. Content lies by modality with the slot it belongs to, so
that nothing is padded; `time` and `space` are given for every slot. A causal model itself rolls the
content by one.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

ON_HOST = "seqlens", "windows", "longest"
"""Fields of `PackedTokens` that are no tensors."""


@dataclass
class PackedTokens:
    """One or more rows laid end to end. Tensors, all on one device.

    Attributes:
        cu_seqlens: Segment borders, (segments + 1,) int32.
        time: Bin of each slot inside its window, (tokens,) int64.
        space: Space id of each slot, (tokens,) int64.
        spikes: Counts of each neural token, (spike_tokens, channels_per_token) uint8.
        spike_channels: Real channels of each neural token, (spike_tokens,) int64; the rest is pad.
        spike_hidden: Whether it is hidden from a masked model, which is to predict it,
            (spike_tokens,) bool.
        spike_slot: Slot of each neural token, (spike_tokens,) int64.
        covariates: Value of each token in [-1, 1], 0 where not valid, (covariate_tokens,).
        covariate_valid: Whether it is a target, (covariate_tokens,) bool.
        covariate_slot: (covariate_tokens,) int64.
        covariate_blank: Whether its value is hidden as an input, (covariate_tokens,) bool.
        constraint: Triplets, (constraint_tokens, 3) float32.
        constraint_slot: (constraint_tokens,) int64.
        returns: Return-to-go and reward, each + 1 and 0 where absent, (return_tokens, 2) int64.
        return_slot: (return_tokens,) int64.
        identity: Row of each identity, -1 where it is padding, (identity_tokens,) int64.
        identity_slot: (identity_tokens,) int64.
        seqlens: Segment lengths on the host.
        windows: Segments that are windows; those behind them are padding (`model.padding`).
        longest: Tokens of the longest segment, or more.
    """

    cu_seqlens: torch.Tensor
    time: torch.Tensor
    space: torch.Tensor
    spikes: torch.Tensor
    spike_channels: torch.Tensor
    spike_hidden: torch.Tensor
    spike_slot: torch.Tensor
    covariates: torch.Tensor
    covariate_valid: torch.Tensor
    covariate_slot: torch.Tensor
    covariate_blank: torch.Tensor
    constraint: torch.Tensor
    constraint_slot: torch.Tensor
    returns: torch.Tensor
    return_slot: torch.Tensor
    identity: torch.Tensor
    identity_slot: torch.Tensor
    seqlens: list[int]
    windows: int
    longest: int

    @classmethod
    def from_numpy(cls, arrays: dict[str, np.ndarray], device: torch.device | str = "cpu"):
        """From packed arrays, padded or not, which bear the names above."""
        names = [f.name for f in fields(cls) if f.name not in ON_HOST]
        tensors = together([torch.from_numpy(arrays[name]) for name in names], device)
        seqlens = np.diff(arrays["cu_seqlens"]).tolist()
        windows = int(arrays.get("windows", len(seqlens)))
        longest = int(arrays.get("longest", max(seqlens, default=0)))
        of_tensors = dict(zip(names, tensors, strict=True))
        return cls(**of_tensors, seqlens=seqlens, windows=windows, longest=longest)

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

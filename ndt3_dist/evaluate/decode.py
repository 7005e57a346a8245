"""Decode covariates with a sliding causal context, as online.

Each bin is predicted from at most `context` bins that end with it. With a stride of k a forward
pass gives its last k bins, so that a bin sees between context - k + 1 and context bins (fewer at
the start of a run); a stride of 1 is decoding bin by bin.
"""

import numpy as np
import torch

from ndt3_dist.data.continuous import Run
from ndt3_dist.data.tokens import Layout, TokenLists, tokenise
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokens import PackedTokens

WINDOWS_PER_PASS = 16


@torch.no_grad()
def decode(model: NDT3, run: Run, layout: Layout, context: int, stride: int) -> np.ndarray:
    """Predictions for every bin of a run.

    Args:
        model: In evaluation mode.
        run: Consecutive bins; its covariates are never shown to the model.
        layout: Of the run's session.
        context: Bins a prediction may see, its own included.
        stride: Bins predicted by one pass.
    Returns:
        (bins, dims) float32, in units of the session's scale.
    """
    bins, dims = len(run), layout.dims
    predicted = np.empty((bins, dims), np.float32)
    device = next(model.parameters()).device
    ends = [min(start + stride, bins) for start in range(0, bins, stride)]
    for first in range(0, len(ends), WINDOWS_PER_PASS):
        lists, places = TokenLists(), []
        for end in ends[first : first + WINDOWS_PER_PASS]:
            start = max(0, end - context)
            lists.add(*tokenise(run.window(start, end), layout, model.config))
            places.append((end - start, end))
        tokens = PackedTokens.from_numpy(lists.pack(), device)
        features = model.features(tokens)[tokens.covariate_slot]
        flat = model.covariate_out(features)[:, 0].float().cpu().numpy()
        for length, end in places:
            window, flat = flat[: length * dims].reshape(length, dims), flat[length * dims :]
            fresh = end - (end - 1) // stride * stride
            predicted[end - fresh : end] = window[length - fresh :]
    return predicted

"""Co-smoothing: what a masked model expects of channels that are hidden in all bins, from the rest.

Offline, as the Neural Latents Benchmark scores it: windows overlap by half, see what comes before
and behind, and each bin is taken from the window in whose middle it lies most nearly. Channels are
hidden by whole tokens, so that those to be held out have to fill theirs: an array of their own.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.decode import WINDOWS_PER_PASS, expected_counts
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.manifest import Session


def channels_of(session: Session, arrays: Sequence[str]) -> np.ndarray:
    """Numbers of the channels of some arrays, in their order. Raises BadInput for another name."""
    known = [array.name for array in session.arrays]
    for name in arrays:
        if name not in known:
            raise BadInput(
                f"session {session.id}: no array {name!r}; there are: {', '.join(known)}"
            )
    ends = np.cumsum([array.channels for array in session.arrays])
    whose = np.searchsorted(ends, np.arange(session.channels), side="right")
    return np.flatnonzero(np.isin(whose, [known.index(name) for name in arrays]))


@torch.no_grad()
def cosmooth(
    model: NDT3, piece: Piece, layout: Layout, held_out: np.ndarray, context: int
) -> np.ndarray:
    """Expected counts of held-out channels.

    Args:
        model: Masked, in evaluation mode.
        piece: Consecutive bins; neither counts of held-out channels nor covariates are shown.
        held_out: Numbers of channels, ascending.
        context: Bins of a window; fewer where the piece has fewer.
    Returns:
        (bins, held-out channels) float32.
    Raises:
        BadInput: The model is causal, or tokens hold some channels of both kinds.
    """
    patches = hidden_patches(model, layout, held_out)
    bins, device = len(piece), model.space.weight.device
    context = min(context, bins)
    starts = [*range(0, bins - context, max(context // 2, 1)), bins - context]
    middles = np.array(starts) + (context - 1) / 2
    nearest = np.abs(np.arange(bins)[:, None] - middles).argmin(axis=1)
    found = np.empty((bins, len(held_out)), np.float32)
    hidden = np.tile(patches, (context, 1))
    with log.counting("co-smoothing", bins, unit="bins") as step:
        for first in range(0, len(starts), WINDOWS_PER_PASS):
            lists, some = TokenLists(), starts[first : first + WINDOWS_PER_PASS]
            for start in some:
                sample = piece.window(start, start + context)
                lists.add(*tokenise(sample, layout, model.config, hidden=hidden))
            tokens = PackedTokens.from_numpy(lists.pack(), device)
            counts = expected_counts(model, model.features(tokens), tokens, layout)
            for number, start in enumerate(some):
                own = np.flatnonzero(nearest == first + number)
                found[own] = counts[number * context + own - start][:, held_out]
                step.add(len(own))
    return found


def hidden_patches(model: NDT3, layout: Layout, held_out: np.ndarray) -> np.ndarray:
    """Which patches hold the channels, (patches,) bool; raises as `cosmooth` does."""
    if not model.masked:
        raise BadInput(
            "a causal model predicts no channel from all others; co-smoothing takes a model with "
            "model.objective: masked"
        )
    out = np.isin(layout.columns, held_out).sum(axis=1)
    if mixed := np.flatnonzero((out > 0) & (out < layout.real)).tolist():
        raise BadInput(
            f"token {mixed[0]} of a bin holds {layout.real[mixed[0]]} channels, of which "
            f"{out[mixed[0]]} are held out; give held-out channels an array of their own"
        )
    return out > 0

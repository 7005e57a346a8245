"""Decode covariates with a sliding causal context, as online, in one of two ways.

With a stride of 0 each bin is computed once, and attention reaches over the `context` bins that end
with it, as in a stream that keeps keys and values (`evaluate.rolling`).

With a stride of k windows are run anew: a forward pass gives its last k bins, so that a bin sees
between context - k + 1 and context bins (fewer at the start of a piece) and nothing before them; a
stride of 1 is decoding bin by bin without keeping anything, at `context` times the work. A masked
model sees both directions, so that each of its windows decodes the one bin that it ends with,
whatever the stride.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.rolling import roll
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.readout import Readout
from ndt3_dist.model.tokenise import Layout, TokenLists, tokenise
from ndt3_dist.model.tokens import PackedTokens

WINDOWS_PER_PASS = 16
ANEW = 10
"""Stride where nothing can be kept: of models with identities, and in sessions without covariates,
whose windows end with a dummy."""


def predict(
    model: NDT3,
    piece: Piece,
    layout: Layout,
    context: int,
    stride: int = 0,
    with_rates: bool = False,
    readout: Readout | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """What `slide` gives, covariates by an export's own readout where it has filters."""
    filters = readout.filters if readout else None
    if filters is None:
        return slide(model, piece, layout, context, stride, with_rates)
    hidden = np.empty((len(piece), layout.dims * model.config.dim), np.float32)
    _, rates = slide(model, piece, layout, context, stride, with_rates, hidden)
    return filters.predict(hidden, piece.spikes), rates


@torch.no_grad()
def slide(
    model: NDT3,
    piece: Piece,
    layout: Layout,
    context: int,
    stride: int = 0,
    with_rates: bool = False,
    hidden: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions for every bin of a piece.

    Args:
        model: In evaluation mode.
        piece: Consecutive bins; its covariates are never shown to the model.
        context: Bins a prediction may see, its own included.
        stride: Bins predicted by one pass; 0 = keep what earlier bins gave.
        with_rates: Also predict the spikes.
        hidden: Filled, where it is given, with the hidden states that the covariates of each bin
            are read from, (bins, dims * width) float32.
    Returns:
        Covariates in units of the session's scale, (bins, dims) float32; and the expected count of
        each channel given all that came before, channels of earlier patches of its own bin
        included (masked: none of its own bin), (bins, channels) float32, or None.
    """
    bins, dims = len(piece), layout.dims
    predicted = np.empty((bins, dims), np.float32)
    rates = np.empty_like(piece.spikes, dtype=np.float32) if with_rates else None
    for features, tokens, places in passes(model, piece, layout, context, stride):
        states = features[tokens.covariate_slot]
        flat = model.covariate_out(states)[:, 0].float().cpu().numpy()
        width = 0 if hidden is None else hidden.shape[1]
        wide = states.float().cpu().numpy().reshape(-1, width) if width else states
        if with_rates and model.masked:
            features = model.features(without_newest(tokens, places, layout))
        counts = expected_counts(model, features, tokens, layout) if with_rates else None
        for last, there in places:
            predicted[there] = flat.reshape(-1, dims)[last] if dims else 0
            if hidden is not None and width:
                hidden[there] = wide[last]
            if rates is not None and counts is not None:
                rates[there] = counts[last]
    return predicted, rates


@torch.no_grad()
def embed(
    model: NDT3, piece: Piece, layout: Layout, context: int, stride: int, layers: int
) -> np.ndarray:
    """Hidden states of every bin of a piece behind so many blocks (`NDT3.features`).

    Of a bin it is the mean over the slots that its covariates are read from, which have seen all
    its spikes and nothing later, (bins, width) float32; other arguments as in `slide`.
    """
    found = np.empty((len(piece), model.config.dim), np.float32)
    for features, tokens, places in passes(model, piece, layout, context, stride, layers):
        states = features[tokens.covariate_slot].float()
        of_bins = states.reshape(-1, max(layout.dims, 1), found.shape[1]).mean(1).cpu().numpy()
        for last, there in places:
            found[there] = of_bins[last]
    return found


Places = list[tuple[slice, slice]]
"""Of each window of a pass: its last bins among those of the pass, and where they lie in time."""


def passes(
    model: NDT3,
    piece: Piece,
    layout: Layout,
    context: int,
    stride: int,
    layers: int | None = None,
) -> Iterator[tuple[torch.Tensor, PackedTokens, Places]]:
    """Features (`NDT3.features`) of a piece, some bins at a time, and of which tokens they are."""
    if not 0 <= stride <= context:
        raise BadInput(f"stride {stride}: expected 0, or 1 to the context of {context} bins")
    if model.masked:
        stride = 1
    elif not stride and not (layout.dims and model.keeps):
        stride = min(ANEW, context)
    if stride == 0:
        for features, tokens, there in roll(model, piece, layout, context, layers):
            yield features, tokens, [(slice(None), there)]
        return
    bins, device = len(piece), model.space.weight.device
    ends = [min(start + stride, bins) for start in range(0, bins, stride)]
    with log.counting("decoding", bins, unit="bins") as step:
        for first in range(0, len(ends), WINDOWS_PER_PASS):
            lists, places, done = TokenLists(), [], 0
            for end in ends[first : first + WINDOWS_PER_PASS]:
                start = max(0, end - context)
                lists.add(*tokenise(piece.window(start, end), layout, model.config))
                fresh = end - (end - 1) // stride * stride
                done += end - start
                places.append((slice(done - fresh, done), slice(end - fresh, end)))
            tokens = PackedTokens.from_numpy(lists.pack(), device)
            yield model.features(tokens, layers), tokens, places
            step.add(places[-1][1].stop - step.done)


def without_newest(tokens: PackedTokens, places: Places, layout: Layout) -> PackedTokens:
    """The tokens of a pass, those of each window's newest bins hidden."""
    hidden = torch.zeros(len(tokens.spike_slot) // len(layout.real), len(layout.real))
    for last, _ in places:
        hidden[last] = 1
    return replace(tokens, spike_hidden=hidden.bool().flatten().to(tokens.time.device))


def expected_counts(
    model: NDT3, features: torch.Tensor, tokens: PackedTokens, layout: Layout
) -> np.ndarray:
    """Mean of the spike head's distribution, (bins of all windows, channels) float32."""
    counts = model.expected_counts(model.spike_logits(features, tokens)).cpu().numpy()
    mean = counts.reshape(-1, *layout.columns.shape)  # (bins, patches, per token)
    found = np.empty((len(mean), int(layout.real.sum()) + 1), np.float32)  # the last is padding
    found[:, layout.columns] = mean
    return found[:, :-1]

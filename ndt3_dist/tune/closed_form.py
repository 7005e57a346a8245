"""What is fitted to a session in closed form, once its gradient steps are done (`model.readout`).

What its spike head expects is corrected to its counts (`tune.rates`), which a decoder's loss does
not hold. Covariates may be read from hidden states and lagged counts by a ridge with a penalty for
each, chosen by contiguous folds.
"""

import numpy as np
import torch

from ndt3_dist import log
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.penalties import Candidate, choose
from ndt3_dist.evaluate.ridge import FOLDS, features
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.readout import Filters, Readout
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tune.fit_data import FitData
from ndt3_dist.tune.rates import fit_rates
from ndt3_dist.tune.tune_config import TuneConfig

PENALTIES = 10 ** np.arange(1.5, 4.6, 0.5)
"""Of the weights of counts."""
HIDDEN = 10 ** np.arange(2.0, 6.1)
"""Of the weights of hidden states, once these have unit variance on average."""


@torch.no_grad()
def fit_readout(
    model: NDT3, data: FitData, config: TuneConfig.Readout
) -> tuple[Readout | None, float | None]:
    """Fit it to the whole split.

    Args:
        model: As it is exported.
        data: Of the session.
        config: Whether covariates are read out at all, and from how many bins.
    Returns:
        The readout (None of a masked model without filters: a window for each bin is much for
        gains alone), and the R2 of bins that were held back in turn, without filters None.
    """
    if model.masked and not config.history:
        return None, None
    layout, window = Layout.of(data.session, model.config), data.window
    model.eval()
    width = layout.dims * model.config.dim if config.history else 0  # nothing is kept unasked
    hidden = [np.empty((len(p), width), np.float32) for p in data.pieces]
    rates = [
        slide(model, p, layout, window, with_rates=True, hidden=h if width else None)[1]
        for p, h in zip(data.pieces, hidden, strict=True)
    ]
    counts = np.concatenate([p.spikes for p in data.pieces])
    with log.waiting("fitting rates"):
        gain, power = fit_rates(counts, np.concatenate([r for r in rates if r is not None]))
    if not config.history:
        return Readout(data.session.id, gain, power), None
    filters, r2 = fit_filters(data, hidden, sorted({*config.history}))
    return Readout(data.session.id, gain, power, filters), r2


def fit_filters(
    data: FitData, hidden: list[np.ndarray], lengths: list[int]
) -> tuple[Filters, float]:
    """A ridge from lagged counts and hidden states; R2 of bins that were held back in turn.

    Args:
        data: Its pieces are fitted.
        hidden: Of each piece, (bins, dims * width).
        lengths: Bins of history to choose from, ascending.
    """
    longest, channels = lengths[-1], data.pieces[0].spikes.shape[1]
    states = np.concatenate(hidden)
    scale = float(np.sqrt(states.var(0).mean())) or 1.0
    x = np.concatenate([features(p.spikes, longest) for p in data.pieces])
    x = np.concatenate([x, states / scale], axis=1)
    y = np.concatenate([p.covariates for p in data.pieces]).astype(np.float64)
    known = np.isfinite(y).all(axis=1)
    ways = [(n, of_counts, h) for n in lengths for of_counts in PENALTIES for h in HIDDEN]
    candidates = [
        Candidate(
            (longest - n) * channels,
            np.repeat([of_counts, of_hidden], [n * channels, states.shape[1]]),
        )
        for n, of_counts, of_hidden in ways
    ]
    best, r2, weights, offset = choose(x[known], y[known], candidates, FOLDS, longest)
    history, of_counts, of_hidden = ways[best]
    log.say(
        f"read out in closed form from hidden states (penalty {of_hidden:.3g}) and {history} bins "
        f"of counts ({of_counts:.3g}): R2 {r2:.4f} of bins held back in turn"
    )
    counts = weights[: history * channels].reshape(history, channels, -1)
    parts = weights[history * channels :] / scale, counts, offset
    return Filters(*(p.astype(np.float32) for p in parts)), r2

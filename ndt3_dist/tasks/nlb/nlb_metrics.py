"""The benchmark's five metrics, of the arrays that its evaluation takes.

Rates and spikes are expected and true counts of a bin, (trials, bins, units). Spikes are NaN where
nobody looked or nothing is scored; rates must be numbers there where spikes are.

Source: Pei et al. 2021 (arXiv:2109.04463) and nlb_tools 0.0.4, whose numbers these are.
"""

from itertools import pairwise

import numpy as np
from scipy.special import gammaln

from ndt3_dist.errors import BadInput

LEAST_RATE = 1e-9
"""Expected count that a prediction of none is taken for."""
ALPHAS = np.logspace(-4, 0, 9)
"""Penalties of the velocity decoder, one of which is chosen by five folds of the train rows."""
FOLDS = 5


def poisson_loss(rates: np.ndarray, spikes: np.ndarray) -> float:
    """Negative log-likelihood of spikes in nats, over all that are numbers.

    Raises:
        BadInput: Shapes differ, or a rate is NaN or negative where a spike count is a number.
    """
    if rates.shape != spikes.shape:
        raise BadInput(f"rates have shape {rates.shape}, spikes {spikes.shape}; expected the same")
    valid = ~np.isnan(spikes)
    counts, expected = spikes[valid].astype(np.float64), rates[valid].astype(np.float64)
    if np.isnan(expected).any():
        raise BadInput(f"{int(np.isnan(expected).sum())} rates are NaN where spikes are scored")
    if (expected < 0).any():
        raise BadInput(
            f"{int((expected < 0).sum())} rates are negative, the least is {expected.min():.3g}; "
            "expected counts of a bin (exponentiate log rates)"
        )
    expected = np.where(expected == 0, LEAST_RATE, expected)
    return float(np.sum(expected - counts * np.log(expected) + gammaln(counts + 1)))


def bits_per_spike(rates: np.ndarray, spikes: np.ndarray) -> float:
    """Log-likelihood above that of each unit's mean count in these very spikes, per spike in bits.

    co-bps of held-out units, fp-bps of all units in the bins behind the trial.
    """
    if rates.shape != spikes.shape:
        raise BadInput(f"rates have shape {rates.shape}, spikes {spikes.shape}; expected the same")
    mean = np.nanmean(spikes, axis=tuple(range(spikes.ndim - 1)), keepdims=True, dtype=np.float64)
    null = poisson_loss(np.broadcast_to(mean, spikes.shape), spikes)
    total = float(np.nansum(spikes))
    if not total:
        raise BadInput("the scored bins hold no spike; bits per spike are not defined")
    return (null - poisson_loss(rates, spikes)) / total / float(np.log(2))


def velocity_r2(
    train_rates: np.ndarray,
    train_velocity: np.ndarray,
    eval_rates: np.ndarray,
    eval_velocity: np.ndarray,
    train_masks: np.ndarray | None = None,
    eval_masks: np.ndarray | None = None,
) -> float:
    """R2 of a ridge from the rates of a bin to the (lagged) velocity, mean over x and y.

    Args:
        train_rates, eval_rates: (trials, bins, units).
        train_velocity, eval_velocity: (trials, bins, 2), NaN where not valid.
        train_masks, eval_masks: (trials, groups) bool: each group of trials has a decoder of its
            own, whose scores are averaged; None = one group.
    """
    if train_masks is None or eval_masks is None:
        train_masks = np.ones((len(train_rates), 1), bool)
        eval_masks = np.ones((len(eval_rates), 1), bool)
    scores = []
    for group in range(train_masks.shape[1]):
        fit = rows_of(train_rates, train_velocity, train_masks[:, group])
        test = rows_of(eval_rates, eval_velocity, eval_masks[:, group])
        alpha = best_alpha(*fit)
        scores.append(r2_uniform(test[1], ridge(*fit, alpha, test[0])))
    return float(np.mean(scores))


def rows_of(rates: np.ndarray, velocity: np.ndarray, chosen: np.ndarray):
    """Rows of some trials whose velocity is valid (by its first column), as float64."""
    x = rates[chosen].reshape(-1, rates.shape[2]).astype(np.float64)
    y = velocity[chosen].reshape(-1, velocity.shape[2]).astype(np.float64)
    valid = ~np.isnan(y[:, 0])
    if not valid.any():
        raise BadInput("no bin of these trials has a velocity; is the target file of this split?")
    if np.isnan(x[valid]).any():
        raise BadInput("rates are NaN in bins that have a velocity; expected a rate in every bin")
    return x[valid], y[valid]


def ridge(x: np.ndarray, y: np.ndarray, alpha: float, other: np.ndarray) -> np.ndarray:
    """Predictions for `other` of a ridge with an intercept that is not penalised."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred = x - mean_x
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += alpha
    weights = np.linalg.solve(gram, centred.T @ (y - mean_y))
    return (other - mean_x) @ weights + mean_y


def best_alpha(x: np.ndarray, y: np.ndarray) -> float:
    """Of `ALPHAS` by the mean R2 over contiguous folds; the first of equals."""
    edges = np.cumsum([0, *(len(x) // FOLDS + (f < len(x) % FOLDS) for f in range(FOLDS))])
    scores = np.zeros(len(ALPHAS))
    for first, last in pairwise(edges.tolist()):
        kept = np.ones(len(x), bool)
        kept[first:last] = False
        for number, alpha in enumerate(ALPHAS):
            found = ridge(x[kept], y[kept], alpha, x[first:last])
            scores[number] += r2_uniform(y[first:last], found)
    return float(ALPHAS[scores.argmax()])


def r2_uniform(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over columns of R2; a constant column counts 1 where it is met exactly, else 0."""
    error = ((true - predicted) ** 2).sum(axis=0)
    spread = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1 - error / spread
    return float(np.where(spread > 0, r2, (error == 0).astype(float)).mean())


def psth_r2(
    psth: np.ndarray,
    rates: np.ndarray,
    trials_of: list[np.ndarray],
    jitter: np.ndarray | None = None,
) -> float:
    """R2 of rates averaged over the trials of a condition against true PSTHs, mean over units.

    Args:
        psth: (conditions, bins, units), NaN in bins that are not scored.
        rates: (trials, bins, units).
        trials_of: Trials of each condition; one without any is left out.
        jitter: Bins by which each trial's window was moved, (trials,); rates are moved back.
    """
    true, found = [], []
    for condition, chosen in enumerate(trials_of):
        if not len(chosen):
            continue
        scored = ~np.isnan(psth[condition, :, 0])
        moved = [shifted(rates[t], 0 if jitter is None else int(jitter[t])) for t in chosen]
        mean = np.mean(moved, axis=0)[scored]
        if np.isnan(mean).any():
            raise BadInput(f"rates of condition {condition} are NaN in bins that its PSTH has")
        true.append(psth[condition][scored])
        found.append(mean)
    if not true:
        raise BadInput(
            "no condition of the PSTHs has a trial; expected eval_cond_idx of this split"
        )
    return r2_uniform(np.concatenate(true), np.concatenate(found))


def shifted(rates: np.ndarray, bins: int) -> np.ndarray:
    """Rates (bins, units) so many bins later, NaN where nothing moves in."""
    moved = np.full(rates.shape, np.nan)
    if bins >= 0:
        moved[bins:] = rates[: len(rates) - bins]
    else:
        moved[:bins] = rates[-bins:]
    return moved


def tp_correlation(
    rates: np.ndarray, heldout: np.ndarray, behavior: np.ndarray, conditions: int = 3
) -> float:
    """Correlation of the mean change of rates from Set to Go with the interval that was produced.

    Args:
        rates: (trials, bins, units) of all units.
        heldout: Their spikes, NaN outside Set to Go.
        behavior: (trials, columns), NaN for trials that are not scored; the first `conditions`
            columns are the condition, the last one the interval.
    Returns:
        Mean over conditions of Pearson's r; good models are negative.
    """
    inside = ~np.isnan(heldout[..., 0])
    speed = np.array(
        [
            np.linalg.norm(np.diff(r[m], axis=0), axis=1).mean()
            for r, m in zip(rates, inside, strict=True)
        ]
    )
    kinds = np.unique(behavior[:, :conditions], axis=0)
    found = []
    for kind in kinds[~np.isnan(kinds).all(axis=1)]:
        chosen = (behavior[:, :conditions] == kind).all(axis=1)
        if chosen.sum() < 2:
            raise BadInput(f"condition {kind.tolist()} has one trial; a correlation needs two")
        found.append(np.corrcoef(speed[chosen], behavior[chosen, -1])[0, 1])
    if not found:
        raise BadInput(
            "no trial has a condition and an interval; is the target file of this split?"
        )
    return float(np.mean(found))

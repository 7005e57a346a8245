"""True PSTHs: smoothed spikes of all units, averaged over the trials of a condition.

Spikes are smoothed millisecond by millisecond within each observed stretch, summed to bins, and
averaged over train and val trials by their distance from the alignment. A condition's trials that
are shorter than .8 of their mean length are left out; the others are cut to the shortest.
"""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.nlb.nlb_datasets import Dataset
from ndt3_dist.tasks.nlb.nlb_session import HELDIN, HELDOUT, NlbSession

SHORT = 0.8


def psths(
    session: NlbSession,
    dataset: Dataset,
    bin_ms: int,
    train: np.ndarray,
    scored: np.ndarray,
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """PSTHs of all conditions.

    Args:
        train, scored: Rows of the trials of both splits.
    Returns:
        (conditions, bins, units of both kinds) with NaN where a condition is shorter; of each
        condition its trials' places in `train`, and in `scored`.
    """
    trials, bins = session.trials, dataset.bins(bin_ms)
    columns = [trials[c].tolist() for c in dataset.conditions]
    keys = [tuple(key) for key in zip(*columns, strict=True)]
    rows = np.sort(np.concatenate([train, scored]))
    if "is_outlier" in trials and dataset.scored:
        rows = rows[np.asarray(trials["is_outlier"])[rows] == 0]
    made, of_train, of_eval = [], [], []
    for key in sorted({keys[r] for r in rows if not _is_nan(keys[r])}):
        own = np.array([r for r in rows if keys[r] == key])
        parts = [_smoothed(session, dataset, bin_ms, row) for row in own]
        lengths = np.array([len(values) for _, values in parts])
        kept = lengths >= SHORT * lengths.mean()
        mean = _by_offset([p for p, k in zip(parts, kept, strict=True) if k])
        shortest = int(lengths[kept].min())
        mean = mean[-shortest:] if dataset.scored else mean[:shortest]
        room = np.full((max(bins - len(mean), 0), mean.shape[1]), np.nan)
        whole = [room, mean[-bins:]] if dataset.scored else [mean[:bins], room]
        made.append(np.concatenate(whole))
        of_train.append(np.flatnonzero(np.isin(train, own[kept])))
        of_eval.append(np.flatnonzero(np.isin(scored, own[kept])))
    if not made:
        raise BadInput(
            f"{session.path}: no trial has a condition ({', '.join(dataset.conditions)})"
        )
    return np.stack(made), of_train, of_eval


def _is_nan(key: tuple) -> bool:
    return any(isinstance(part, float) and part != part for part in key)


def _smoothed(session: NlbSession, dataset: Dataset, bin_ms: int, row: int):
    """Bin of the first value, counted from the alignment, and smoothed counts of a trial's bins."""
    size, trials = bin_ms * 1_000_000, session.trials
    align = int(trials[dataset.align][row])
    low, high = (align + ms * 1_000_000 for ms in dataset.window_ms)
    if dataset.scored:
        low, high = (int(trials[name][row]) for name in dataset.scored)
    first, last = -(-low // size), -(-high // size)
    values = np.concatenate(
        [
            _smoothed_kind(session, kind, first * bin_ms, last * bin_ms, bin_ms, dataset.psth_sd_ms)
            for kind in (HELDIN, HELDOUT)
        ],
        axis=1,
    )
    return first - -(-align // size), values


def _smoothed_kind(
    session: NlbSession, kind: int, first: int, last: int, bin_ms: int, sd_ms: float
) -> np.ndarray:
    """Smoothed counts of the units of a kind in [first, last) ms, (bins, units)."""
    from scipy.signal import convolve

    length = int(6 * sd_ms)
    at = np.arange(length) - (length - 1) / 2
    kernel = np.exp(-0.5 * (at / sd_ms) ** 2)
    kernel /= kernel.sum()
    units = session.spikes[kind]
    found = np.full((last - first, len(units)), np.nan)
    for begin, end in session.observed[kind].tolist():
        # A stretch's ends shape what is near them; what is further off than the kernel does not.
        low, high = max(begin, first - 2 * length), min(end, last + 2 * length)
        if high <= first or low >= last:
            continue
        for unit, times in enumerate(units):
            near = times[times.searchsorted(low) : times.searchsorted(high)]
            counts = np.bincount(near - low, minlength=high - low).astype(np.float64)
            smooth = np.maximum(convolve(counts, kernel, "same"), 0)
            a, b = max(low, first), min(high, last)
            found[a - first : b - first, unit] = smooth[a - low : b - low]
    seen = ~np.isnan(found[::bin_ms])
    summed = np.nan_to_num(found).reshape(-1, bin_ms, len(units)).sum(axis=1)
    return np.where(seen, summed, np.nan)


def _by_offset(parts: list) -> np.ndarray:
    """Mean over trials of what lies at the same distance from the alignment, (bins, units)."""
    start = min(first for first, _ in parts)
    stop = max(first + len(values) for first, values in parts)
    total = np.zeros((stop - start, parts[0][1].shape[1]))
    number = np.zeros_like(total)
    for first, values in parts:
        valid = ~np.isnan(values)
        total[first - start : first - start + len(values)] += np.where(valid, values, 0)
        number[first - start : first - start + len(values)] += valid
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)

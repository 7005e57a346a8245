"""Scores of classes and of numbers, over a whole fold at once."""

import math

import numpy as np

from ndt3_dist.tasks.words.scores.embedding_scores import roc_auc, softmax

SURE = 1e-4
"""How near to 1 the sum of a row must be that is taken for probabilities."""


def as_probabilities(outputs: np.ndarray) -> np.ndarray:
    """Outputs of a model of classes as rows that sum to 1: themselves where they do already.

    A softmax is never taken twice.

    Args:
        outputs: (rows, classes); (rows,) or (rows, 1) is of the positive one of two classes, as a
            probability where all lie in [0, 1], else as its logit.
    """
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        one = outputs.reshape(-1)
        if one.size and (one.min() < 0 or one.max() > 1):
            one = 0.5 * (1 + np.tanh(one / 2))
        return np.stack([1 - one, one], axis=1)
    sums = outputs.sum(axis=1)
    if (outputs >= 0).all() and (np.abs(sums - 1) < SURE).all():
        return outputs / sums[:, None]
    return softmax(outputs)


def class_scores(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Classification scores by name.

    Args:
        outputs: As of `as_probabilities`.
        labels: Class of each row, (rows,), whole numbers from 0.
    Returns:
        roc_auc (of two classes) or roc_auc_multiclass (mean over present classes, each against all
        others), f1 (of each class, weighted by its rows), acc, and of two classes sensitivity,
        specificity and precision (NaN where nothing can be said), cross_entropy, perplexity.
    """
    shares, labels = as_probabilities(outputs), np.asarray(labels).astype(int)
    guessed = shares.argmax(axis=1)
    confusion = confusion_matrix(guessed, labels, shares.shape[1])
    own = np.clip(shares[np.arange(len(labels)), labels], 1e-300, 1)
    found = {}
    if shares.shape[1] == 2:
        found["roc_auc"] = roc_auc(shares[:, 1], labels == 1)
    else:
        areas = [roc_auc(shares[:, c], labels == c) for c in np.unique(labels)]
        known = [area for area in areas if not math.isnan(area)]
        found["roc_auc_multiclass"] = float(np.mean(known)) if known else math.nan
    hit = confusion.diagonal().astype(float)
    truth, told = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * hit / np.maximum(truth + told, 1)
    found["f1"] = float((f1 * truth).sum() / max(truth.sum(), 1))
    found["acc"] = float(hit.sum() / max(truth.sum(), 1))
    if shares.shape[1] == 2:
        found["sensitivity"] = _share(hit[1], truth[1])
        found["specificity"] = _share(hit[0], truth[0])
        found["precision"] = _share(hit[1], told[1])
    found["cross_entropy"] = float(-np.log(own).mean())
    found["perplexity"] = float(np.exp(found["cross_entropy"]))
    return found


def confusion_matrix(guessed: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Rows of each true class (down) that were told to be of each (across)."""
    found = np.zeros((classes, classes), int)
    np.add.at(found, (np.asarray(labels).astype(int), guessed), 1)
    return found


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Correlation of all values, a mean over columns where there are several.

    NaN where either is constant: there is none.
    """
    predicted, true = _columns(predicted), _columns(true)
    a, b = predicted - predicted.mean(axis=0), true - true.mean(axis=0)
    spread = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    known = spread > 1e-12
    return float(((a * b).sum(axis=0)[known] / spread[known]).mean()) if known.any() else math.nan


def r2(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 - SSE / SST over all columns; the mean is that of the whole fold."""
    predicted, true = _columns(predicted), _columns(true)
    spread = ((true - true.mean(axis=0)) ** 2).sum()
    return float(1 - ((true - predicted) ** 2).sum() / spread) if spread else math.nan


def mse(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(((_columns(predicted) - _columns(true)) ** 2).mean())


def _columns(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[:, None] if values.ndim == 1 else values

"""All scores of one fold, beside those of two controls: the mean embedding and shuffled targets."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ndt3_dist.data.order import generator
from ndt3_dist.tasks.words.scores import class_scores as c
from ndt3_dist.tasks.words.scores import embedding_scores as e

HEADLINE = {"vector": "pairwise_accuracy", "number": "corr", "class": "roc_auc"}
"""What is tested and drawn of each kind of target."""
HIGHER = {"mse": False, "cosine_dist": False, "nll_embedding": False, "cross_entropy": False}
"""Scores of which less is better; also all whose name has `perplexity` or `loss`."""


def is_lower_better(metric: str) -> bool:
    return not HIGHER.get(metric, "perplexity" not in metric and "loss" not in metric)


def headline(kind: str, classes: int = 2) -> str:
    """Name of the score that stands for all of a kind of target."""
    return "roc_auc_multiclass" if kind == "class" and classes > 2 else HEADLINE[kind]


def plain_scores(kind: str, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Scores that need nothing but predictions and truth; finite wherever they are defined.

    Args:
        kind: vector (rows, dims), number (rows,) or class (rows,).
    """
    if kind == "class":
        return c.class_scores(predicted, true)
    found = {"mse": c.mse(predicted, true), "r2": c.r2(predicted, true)}
    found["corr"] = c.pearson(predicted, true)
    if kind == "vector":
        similar = e.cosines(predicted, true)
        found["cosine_sim"] = float(similar.diagonal().mean())
        found["cosine_dist"] = 1 - found["cosine_sim"]
        found["nll_embedding"] = float((e.logsumexp(similar) - similar.diagonal()).mean())
        found["pairwise_accuracy"] = float(e.beaten(similar).diagonal().mean())
    return found


def word_scores(
    predicted: np.ndarray,
    true: np.ndarray,
    words: Sequence[str],
    train_words: Sequence[str],
    min_train: int,
    min_test: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[str, float]:
    """Scores by word of embeddings: area, top-k, perplexity."""
    similar = e.cosines(predicted, true)
    areas = e.word_auc(similar, words, dict(Counter(train_words)), min_train, min_test)
    return {**areas, **e.ranked(similar, words, ks, temperature)}


def null_orders(number: int, rows: int, how: str, seed: int = 0) -> list[np.ndarray]:
    """Orders of the truth under which nothing was decoded.

    Args:
        how: shift = in a circle, so that neighbours stay neighbours, for words in order of time;
            shuffle = any order, for words that were dealt at random.
    """
    if how == "shift" and rows > 2:
        shifts = generator("null", seed, rows).integers(1, rows, number)
        return [np.roll(np.arange(rows), int(s)) for s in shifts]
    draw = generator("null", seed, rows)
    return [draw.permutation(rows) for _ in range(number)]


def null_statistics(
    kind: str, predicted: np.ndarray, true: np.ndarray, orders: Sequence[np.ndarray]
) -> np.ndarray:
    """The headline score of one fold under each order of its truth, (orders,)."""
    if kind == "vector":
        # Of row i the truth at j beats the same share of all truths, whoever's it is.
        shares, rows = e.beaten(e.cosines(predicted, true)), np.arange(len(true))
        return np.array([shares[rows, order].mean() for order in orders])
    name: Callable = c.pearson
    if kind == "class":
        shares = c.as_probabilities(predicted)
        return np.array([_area(shares, true[order]) for order in orders])
    return np.array([name(predicted, true[order]) for order in orders])


def _area(shares: np.ndarray, labels: np.ndarray) -> float:
    if shares.shape[1] == 2:
        return e.roc_auc(shares[:, 1], labels == 1)
    return float(np.nanmean([e.roc_auc(shares[:, k], labels == k) for k in np.unique(labels)]))


def corrected_p(observed: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p-values of each lag: by itself, and corrected for all lags by their greatest statistic.

    Args:
        observed: Of each lag, (lags,).
        null: The same under each order, (lags, orders); an order is one for all lags.
    Returns:
        Both (lags,), never 0: the order that was observed counts as one.
    """
    number = null.shape[1] + 1
    alone = (1 + (null >= observed[:, None]).sum(axis=1)) / number
    most = np.nanmax(null, axis=0)
    return alone, (1 + (most[None] >= observed[:, None]).sum(axis=1)) / number

"""Scores of decoded word embeddings, each over a whole fold at once and never over batches.

`D[i, j] = 1 - cos(predicted i, true j)` over all scored occurrences. At the level of occurrences
each is its own class; at the level of words D is averaged over the occurrences of each word, and
`P = softmax(1 - D)` over words. Words are in the order of their text, so that nothing depends on
the process that counts them.

Source: the podcast benchmark's metrics; Goldstein et al. 2022 for the area by word.
"""

import math
from collections.abc import Sequence

import numpy as np

TINY = 1e-12
"""Length below which a vector has no direction: its cosine with anything is 0."""
TEMPERATURES: list[float] = np.logspace(-3, 1, 41).tolist()
"""Of which perplexity takes the one that is best on validation words."""


def cosines(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """cos(predicted i, true j), (predicted, true) float64."""
    return _unit(predicted) @ _unit(true).T


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > TINY, vectors / np.maximum(lengths, TINY), 0.0)


def mean_cosine(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean cosine of each prediction with its own truth."""
    return float((_unit(predicted) * _unit(true)).sum(axis=1).mean())


def nll_embedding(predicted: np.ndarray, true: np.ndarray) -> float:
    """Cross-entropy of each prediction's own truth among all, logits being cosines."""
    similar = cosines(predicted, true)
    return float((logsumexp(similar) - similar.diagonal()).mean())


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """log of the sum of exp of each row, (rows,)."""
    most = logits.max(axis=1, keepdims=True)
    return (most + np.log(np.exp(logits - most).sum(axis=1, keepdims=True)))[:, 0]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - logsumexp(logits)[:, None])


def beaten(similar: np.ndarray) -> np.ndarray:
    """Share of the others that each truth beats for each prediction.

    Args:
        similar: cos(predicted i, true j), (n, n).
    Returns:
        (n, n): of row i, the share of j != k with similar[i, k] > similar[i, j]. What is equal is
        not beaten: a constant prediction wins nothing by being one.
    """
    similar = np.round(similar, 12)  # equal truths are equal, however a product was summed
    ordered = np.sort(similar, axis=1)
    below = [
        np.searchsorted(row, values, "left") for row, values in zip(ordered, similar, strict=True)
    ]
    return np.array(below) / max(len(similar) - 1, 1)


def pairwise_accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over i != j of [cos(p_i, y_i) > cos(p_i, y_j)]; chance is .5.

    The truths of a repeated word are equal, and neither beats the other.
    """
    return float(beaten(cosines(predicted, true)).diagonal().mean())


def word_distances(distances: np.ndarray, words: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Distances to each word: the mean over its occurrences, (n, words), and the words, sorted."""
    names, of = np.unique(np.asarray(words, dtype=str), return_inverse=True)
    member = np.zeros((len(of), len(names)))
    member[np.arange(len(of)), of] = 1
    return distances @ (member / member.sum(axis=0)), names.tolist()


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN where one class is missing."""
    positive = np.asarray(positive, bool)
    number, others = int(positive.sum()), int((~positive).sum())
    if not number or not others:
        return math.nan
    _, rank_of, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[rank_of]
    return float((ranks[positive].sum() - number * (number + 1) / 2) / (number * others))


def word_auc(
    similar: np.ndarray,
    words: Sequence[str],
    train_counts: dict[str, int],
    min_train: int = 5,
    min_test: int = -1,
) -> dict[str, float]:
    """Area of each word against all others, over words with enough occurrences.

    Args:
        similar: cos(predicted i, true j) of the scored occurrences, (n, n).
        words: Of each, (n,).
        train_counts: Occurrences of each word among the training words.
        min_train, min_test: Occurrences that a word must have there; -1 = any number.
    Returns:
        Means over words: unweighted, weighted by occurrences in training, and in test; and how many
        words there were. NaN where no word has enough.
    """
    distances, names = word_distances(1 - similar, words)
    shares = softmax(1 - distances)
    found, train, test = [], [], []
    texts = np.asarray(words, dtype=str)
    for column, name in enumerate(names):
        is_word = np.asarray(texts == name)
        in_train = train_counts.get(name, 0)
        if in_train < min_train or is_word.sum() < min_test:
            continue
        area = roc_auc(shares[:, column], is_word)
        if not math.isnan(area):
            found.append(area)
            train.append(in_train)
            test.append(int(is_word.sum()))
    return {
        "word_avg_auc_roc": float(np.mean(found)) if found else math.nan,
        "word_train_weighted_auc_roc": _weighted(found, train),
        "word_test_weighted_auc_roc": _weighted(found, test),
        "word_auc_words": float(len(found)),
    }


def _weighted(values: list[float], weights: list[int]) -> float:
    return float(np.average(values, weights=weights)) if sum(weights) else math.nan


def top_k(similar: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose own column is among the k largest; equal ones count as larger."""
    own = similar[np.arange(len(labels)), labels]
    return float(((similar >= own[:, None]).sum(axis=1) <= k).mean())


def perplexity(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """exp of the mean -log of the share that each row gives to its own class; 1 = perfect.

    Args:
        probabilities: Rows that sum to 1: no second softmax is taken.
    """
    own = probabilities[np.arange(len(labels)), labels]
    with np.errstate(divide="ignore"):
        return float(np.exp(-np.log(own).mean()))


def ranked(
    similar: np.ndarray,
    words: Sequence[str],
    ks: Sequence[int] = (1, 5, 10),
    temperature: float = 1.0,
) -> dict[str, float]:
    """Top-k and perplexity by word and by occurrence.

    Args:
        temperature: That cosines are divided by before the softmax of perplexity alone: cosines
            reach from -1 to 1, so that at 1 even a perfect prediction is unsure.
    """
    distances, names = word_distances(1 - similar, words)
    own_word = np.searchsorted(names, np.asarray(words, dtype=str))
    own = np.arange(len(similar))
    return {
        "word_perplexity": perplexity(softmax((1 - distances) / temperature), own_word),
        "occurence_perplexity": perplexity(softmax(similar / temperature), own),
        **{f"word_top_{k}": top_k(1 - distances, own_word, k) for k in ks},
        **{f"occurence_top_{k}": top_k(similar, own, k) for k in ks},
    }


def best_temperature(similar: np.ndarray, words: Sequence[str]) -> float:
    """The temperature of the least perplexity by word, of validation words."""
    distances, names = word_distances(1 - similar, words)
    own = np.searchsorted(names, np.asarray(words, dtype=str))
    logits, found = 1 - distances, []
    for temperature in TEMPERATURES:
        scaled = logits / temperature
        found.append(float((logsumexp(scaled) - scaled[np.arange(len(own)), own]).mean()))
    return TEMPERATURES[int(np.argmin(found))]

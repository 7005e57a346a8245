"""Baselines that have one best answer: ridge, plain least squares, logistic regression.

Each is fitted on training words alone; its penalty is the one that scores best on validation words.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ndt3_dist.evaluate.ridge import solutions

PENALTIES: list[float] = np.logspace(-1, 6, 15).tolist()
LOGISTIC: list[float] = np.logspace(-3, 3, 4).tolist()
LEAST = 1e-6
"""Penalty of least squares: of all exact answers the smallest."""
Predict = Callable[[np.ndarray], np.ndarray]


def best_ridge(
    x: np.ndarray,
    y: np.ndarray,
    x_val: np.ndarray,
    score: Callable[[np.ndarray], float],
    penalties: Sequence[float] = PENALTIES,
):
    """The ridge whose predictions of validation words score highest, and its penalty.

    Args:
        x, y: Training words, (words, features) and (words, targets).
        x_val: Validation words.
        score: Of predictions of them, (words, targets); the higher the better.
    """
    found = [(score(fit.predict(x_val)), fit) for fit in solutions(x, y, penalties)]
    return max(found, key=lambda pair: -np.inf if np.isnan(pair[0]) else pair[0])[1]


def logistic(
    x: np.ndarray, labels: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression: weights (features, classes) and offsets (classes,).

    Least sum of -log of each word's own share, plus penalty / 2 times the squared weights; offsets
    are free. With classes 2 the shares are those of one logit.
    """
    if len(x) < x.shape[1]:  # the answer lies in the span of the words
        left, sizes, right = np.linalg.svd(x.astype(np.float64), full_matrices=False)
        weights, offsets = logistic(left * sizes, labels, classes, penalty)
        return right.T @ weights, offsets
    columns = 1 if classes == 2 else classes
    data, truth = torch.from_numpy(np.ascontiguousarray(x, np.float64)), torch.from_numpy(labels)
    weights = torch.zeros(x.shape[1], columns, dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(columns, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [weights, offsets],
        max_iter=200,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        search.zero_grad()
        logits = data @ weights + offsets
        if columns == 1:
            errors = torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], truth.double(), reduction="sum"
            )
        else:
            errors = torch.nn.functional.cross_entropy(logits, truth, reduction="sum")
        loss = errors + penalty / 2 * weights.square().sum()
        loss.backward()
        return loss

    search.step(closure)  # pyright: ignore
    return weights.detach().numpy(), offsets.detach().numpy()


def best_logistic(
    x: np.ndarray,
    labels: np.ndarray,
    classes: int,
    x_val: np.ndarray,
    score: Callable[[np.ndarray], float],
    penalties: Sequence[float] = LOGISTIC,
) -> Predict:
    """What gives logits of (words, features); its penalty scores best on validation words."""
    found = []
    for penalty in penalties:
        weights, offsets = logistic(x, labels, classes, penalty)
        found.append((score(x_val @ weights + offsets), weights, offsets))
    _, weights, offsets = max(found, key=lambda each: -np.inf if np.isnan(each[0]) else each[0])
    return lambda x: x @ weights + offsets

"""How predictions of a cell are scored, and what they are set beside: baselines and controls."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.decoders.closed_baselines import LEAST, best_logistic, best_ridge
from ndt3_dist.tasks.words.decoders.word_losses import LOSSES
from ndt3_dist.tasks.words.plug_in import find
from ndt3_dist.tasks.words.scores import embedding_scores, fold_scores
from ndt3_dist.tasks.words.word_config import Experiment
from ndt3_dist.tasks.words.word_folds import Fold
from ndt3_dist.tasks.words.word_targets import Examples

PARTS = "train", "val", "test"


def score_of(
    stage: Experiment, metric: str, kind: str, true: np.ndarray, loss: Callable, share: Callable
) -> Callable[[np.ndarray], float]:
    """A score of the outputs of all validation words together."""
    if metric in LOSSES and metric not in ("mse", "cosine_dist", "nll_embedding", "cross_entropy"):
        truth = torch.from_numpy(true)
        return lambda raw: float(LOSSES[metric](torch.from_numpy(raw), truth))
    if ":" in metric or (stage.plugins and metric in stage.training_params.metrics):
        own = find(metric, "early_stopping_metric", LOSSES, stage.plugins)
        return lambda raw: float(own(torch.from_numpy(raw), torch.from_numpy(true)))

    def score(raw: np.ndarray) -> float:
        every = fold_scores.plain_scores(kind, share(raw), true)
        if metric not in every:
            raise BadInput(
                f"early_stopping_metric {metric!r} is none of a {kind}; there are "
                f"{', '.join(every)}"
            )
        return every[metric]

    return score


def users_metrics(stage: Experiment, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The metrics that are a user's own, of a whole part at once."""
    found = {}
    for name in stage.training_params.metrics:
        if ":" in name:
            own = find(name, "metrics", {}, stage.plugins)
            value = own(torch.from_numpy(predicted), torch.from_numpy(true))
            found[name.rpartition(":")[2]] = float(value)
    return found


@dataclass(frozen=True)
class Words:
    """Scores by word of one fold; none where examples have no words or are no vectors."""

    stage: Experiment
    examples: Examples
    part: Fold
    kind: str

    def scores(self, predicted: np.ndarray, y: np.ndarray, val: np.ndarray | None) -> dict:
        text, asked = self.examples.text, self.stage.training_params
        if self.kind != "vector" or not any(text):
            return {}
        of = {name: [text[r] for r in getattr(self.part, name)] for name in PARTS}
        temperature = 1.0
        if val is not None:
            similar = embedding_scores.cosines(val, y[self.part.val])
            temperature = embedding_scores.best_temperature(similar, of["val"])
        found = fold_scores.word_scores(
            predicted,
            y[self.part.test],
            of["test"],
            of["train"],
            asked.min_train_freq_auc,
            asked.min_test_freq_auc,
            asked.top_k_thresholds,
            temperature,
        )
        return {**found, "temperature": temperature}


def baselines(
    stage: Experiment, examples: Examples, x: np.ndarray, y: np.ndarray, part: Fold
) -> dict[str, np.ndarray]:
    """Predictions of test words by what has one best answer, by name; of the mean of training
    targets, too; and `weights`, how much the linear one takes from each channel."""
    asked, flat = stage.training_params, x.reshape(len(x), -1)
    train, val, test = part.train, part.val, part.test
    kind, found = examples.kind, {}
    head = fold_scores.headline(kind, examples.classes)

    def score(predicted: np.ndarray) -> float:
        return fold_scores.plain_scores(kind, shaped(predicted), y[val])[head]

    def shaped(predicted: np.ndarray) -> np.ndarray:
        return predicted[:, 0] if kind == "number" else predicted

    if kind == "class":
        shares = np.bincount(y[train], minlength=examples.classes) / len(train)
        found["mean"] = np.tile(shares, (len(test), 1))
        predict = best_logistic(flat[train], y[train], examples.classes, flat[val], score)
        found["logistic"] = as_logits(predict(flat[test]))
        return found
    wide = y[train].reshape(len(train), -1).astype(np.float64)
    found["mean"] = shaped(np.tile(wide.mean(axis=0), (len(test), 1)))
    chosen = {} if asked.ridge_alpha is None else {"penalties": [asked.ridge_alpha]}
    ridge = best_ridge(flat[train], wide, flat[val], score, **chosen)
    found["ridge"] = shaped(ridge.predict(flat[test]))
    by_channel = ridge.weights.reshape(*x.shape[1:], -1)
    axes = tuple(range(1, by_channel.ndim))
    found["weights"] = np.sqrt((by_channel**2).sum(axis=axes))
    if asked.linear_regression_baseline:
        plain = best_ridge(flat[train], wide, flat[val], score, [LEAST])
        found["linear"] = shaped(plain.predict(flat[test]))
    return found


def as_logits(logits: np.ndarray) -> np.ndarray:
    """Of two classes both shares, that no range has to be guessed from."""
    if logits.shape[1] > 1:
        return logits
    one = 1 / (1 + np.exp(-logits[:, 0]))
    return np.stack([1 - one, one], axis=1)

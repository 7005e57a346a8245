"""FALCON's scores, to the last digit those of its evaluator, under its names.

Movement: R2 of each session (a day's recordings end to end, scored bins alone), variance-weighted
over dimensions, then mean and population deviation over sessions. Text: errors over length of each
recording, in characters and in words, then the same over recordings. Held-in and held-out apart.

Source: falcon_challenge 1.0.2 (evaluator.py).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.falcon.served import Served
from ndt3_dist.tasks.falcon.tags import Task, day_of


def falcon_r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """1 - squared error / squared deviation, dimensions weighted by their deviation.

    A dimension that never moves has no weight. Of (bins, dims) both; NaN of fewer than two bins.
    """
    if len(true) < 2:
        return float("nan")
    error = ((true - predicted) ** 2).sum(axis=0)
    spread = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    scores = np.ones(true.shape[1])
    both = (error != 0) & (spread != 0)
    scores[both] = 1 - error[both] / spread[both]
    scores[(error != 0) & (spread == 0)] = 0.0
    return float(np.average(scores, weights=spread if spread.any() else None))


def distance(one: Sequence, other: Sequence) -> int:
    """Least number of insertions, deletions and exchanges that turn one into the other."""
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, start=1):
        corner, row[0] = row[0], number
        for at, right in enumerate(other, start=1):
            best = min(row[at] + 1, row[at - 1] + 1, corner + (left != right))
            corner, row[at] = row[at], best
    return row[-1]


def words(text: str) -> list[str]:
    """Words as they are scored: `>` parts them, each of ~ , ! ? is one."""
    return re.sub(r"([~,!?])", r" \1", text.replace(">", " ")).split(" ")


def error_rates(predicted: Sequence[str], true: Sequence[str]) -> tuple[float, float]:
    """Errors over length of some texts: of characters (CER), of words (WER)."""
    pairs = [*zip(predicted, true, strict=True)]
    characters = sum(distance(p, t) for p, t in pairs) / sum(len(t) for t in true)
    of_words = sum(distance(words(p), words(t)) for p, t in pairs)
    return characters, of_words / sum(len(words(t)) for t in true)


def scores_of(
    task: Task, found: Iterable[tuple[Served, np.ndarray | list[str]]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores of recordings.

    Args:
        found: Each with what was predicted: covariates (bins, dims) in raw units, or texts.
    Returns:
        What the evaluator reports, such as "Held In R2 Mean"; and scores by session.
    """
    sides: dict[str, dict[str, list]] = {n: defaultdict(list) for n in ("Held In", "Held Out")}
    for served, predicted in found:
        side = "Held In" if served.tag in task.held_in else "Held Out"
        sides[side][day_of(served.tag)].append((served, predicted))
    summary, sessions = {}, {}
    for side, days in sides.items():
        each = {day: _of_day(task, days[day]) for day in sorted(days)}
        sessions |= each
        for name in next(iter(each.values()), {}):
            values = [scores[name] for scores in each.values()]
            mean = f"{side} R2 Mean" if name == "R2" else f"{side} {name}"
            summary |= {mean: float(np.mean(values)), f"{side} {name} Std.": float(np.std(values))}
    return summary, sessions


def _of_day(task: Task, recordings: list) -> dict[str, float]:
    """Scores of one session."""
    if not task.dims:
        true = [text for served, _ in recordings for text in served.texts]
        predicted = [text for _, texts in recordings for text in texts]
        cer, wer = error_rates(predicted, true)
        return {"WER": wer, "CER": cer}
    for served, predicted in recordings:
        if not np.isfinite(served.truth[served.mask]).all():
            raise BadInput(f"{served.tag}: what is true is not finite in a bin that is scored")
        if predicted.shape != served.truth.shape:
            raise BadInput(
                f"{served.tag}: predictions of {predicted.shape}, expected {served.truth.shape}"
            )
    true = np.concatenate([s.truth[s.mask] for s, _ in recordings])
    predicted = np.concatenate([p[s.mask] for s, p in recordings])
    return {"R2": falcon_r2(true, predicted)}

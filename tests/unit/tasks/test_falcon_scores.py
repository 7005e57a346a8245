"""FALCON's scores: variance-weighted R2 of sessions, character and word errors."""

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.falcon.scores import distance, error_rates, falcon_r2, scores_of, words
from ndt3_dist.tasks.falcon.served import Served
from ndt3_dist.tasks.falcon.tags import TASKS


def moving(bins: int, dims: int, seed: int):
    draw = np.random.default_rng(seed)
    true = draw.normal(3, np.linspace(1, 9, dims), (bins, dims))
    return true, true + draw.normal(size=true.shape), draw.random(bins) < 0.7


def test_dimensions_are_weighted_by_how_much_they_move():
    true, predicted, _ = moving(50, 7, 0)
    spread = ((true - true.mean(axis=0)) ** 2).sum()
    expected = 1 - ((true - predicted) ** 2).sum() / spread
    assert falcon_r2(true, predicted) == pytest.approx(expected, rel=1e-12)
    still = np.column_stack([true, np.ones(50)])  # what never moves has no weight
    of_still = falcon_r2(still, np.column_stack([predicted, np.zeros(50)]))
    assert of_still == pytest.approx(expected, rel=1e-12)
    assert falcon_r2(true, true) == 1
    assert falcon_r2(true, np.broadcast_to(true.mean(axis=0), true.shape)) == pytest.approx(0)


def test_sessions_are_days_and_bins_that_are_not_scored_do_not_count():
    task, found, by_day = TASKS["m2"], [], {}
    for seed, tag in enumerate(("Run1_20201019", "Run2_20201019", "Run1_20201020", task.tags[-1])):
        true, predicted, mask = moving(60, 2, seed)
        true[~mask] = np.nan
        empty = np.zeros((60, 0), np.uint8)
        found.append((Served(tag, empty, mask, true, mask), predicted))
        by_day.setdefault(tag[5:], []).append((true[mask], predicted[mask]))
    each = {
        day: falcon_r2(*map(np.concatenate, zip(*parts, strict=True)))
        for day, parts in by_day.items()
    }
    summary, sessions = scores_of(task, found)
    assert sessions == {day: {"R2": r2} for day, r2 in each.items()}
    inside = [each["20201019"], each["20201020"]]
    assert summary["Held In R2 Mean"] == np.mean(inside)
    assert summary["Held In R2 Std."] == np.std(inside)  # of the population
    assert summary["Held Out R2 Mean"] == each["20201124"]
    assert summary["Held Out R2 Std."] == 0
    found[0][0].truth[found[0][0].mask] = np.nan
    with pytest.raises(BadInput, match="Run1_20201019: what is true is not finite"):
        scores_of(task, found)


def test_words_are_parted_as_falcon_parts_them():
    assert words("so,>he>said~") == ["so", ",", "he", "said", "~"]
    assert words("why?") == ["why", "?"]
    assert distance("kitten", "sitting") == 3
    assert distance("", "abc") == distance("abc", "") == 3
    assert distance(["a", "b"], ["b"]) == 1


def test_error_rates_are_errors_over_length_and_not_means_of_trials():
    cer, wer = error_rates(["ab", "a>long>one~"], ["a", "a>long>two~"])
    assert cer == (1 + 3) / (1 + 11)
    assert wer == (1 + 1) / (1 + 4)

"""Folds of words: no window is in two parts, and every process deals the same ones."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.words.series import first_rows, rows_of
from ndt3_dist.tasks.words.word_folds import lags_of, word_folds

RNG = np.random.default_rng(1)
ONSETS = np.cumsum(RNG.uniform(0.15, 0.5, 600))
WORDS = [f"w{i}" for i in RNG.integers(0, 90, 600)]


def nearest(one, other):
    return np.abs(ONSETS[one][:, None] - ONSETS[other]).min()


@pytest.mark.parametrize("kind", ["sequential_folds", "zero_shot_folds"])
def test_no_two_parts_are_nearer_than_a_window(kind):
    gap = 0.625 if kind == "sequential_folds" else 0.3
    folds = word_folds(ONSETS, WORDS, 5, kind, gap)
    for fold in folds:
        parts = fold.train, fold.val, fold.test
        for one in range(3):
            for other in range(one):
                assert nearest(parts[one], parts[other]) >= gap - 1e-9
        assert fold.purged == 600 - sum(map(len, parts)) > 0
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    assert (tested == np.arange(600)).all()  # each word once, none is purged from a test


def test_the_last_quarter_of_the_rest_validates():
    fold = word_folds(ONSETS, WORDS, 5)[0]
    assert fold.test.max() < fold.train.min() < fold.train.max() < fold.val.min()
    assert len(fold.val) == pytest.approx(120, abs=4)


def test_zero_shot_test_words_were_never_heard_in_training():
    for fold in word_folds(ONSETS, WORDS, 5, "zero_shot_folds", 0.3):
        train, val, test = ({WORDS[r] for r in part} for part in (fold.train, fold.val, fold.test))
        assert not train & test
        assert not train & val
        assert not val & test


CODE = """
import numpy as np
from ndt3_dist.tasks.words.word_folds import word_folds
words = [f"w{i}" for i in np.random.default_rng(0).integers(0, 40, 200)]
folds = word_folds(np.arange(200) * 1.0, words, 4, "zero_shot_folds", 0.5)
print([fold.test.tolist() for fold in folds])
"""


def test_zero_shot_folds_do_not_follow_the_hash_seed():
    said = {
        subprocess.run(
            [sys.executable, "-c", CODE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_too_few_words_are_said():
    with pytest.raises(BadInput, match="fold 1 of 3 has 0 training"):
        word_folds(np.arange(12) * 0.1, ["a"] * 12, 3)
    with pytest.raises(BadInput, match="5 folds of 3 words"):
        word_folds(np.arange(3.0), ["a"] * 3, 5)


def test_the_last_lag_is_there_where_a_step_falls_on_it():
    assert lags_of(-1000, 1000, 500) == [-1000, -500, 0, 500, 1000]
    assert lags_of(0, 450, 200) == [0, 200, 400]
    assert lags_of(0, 0, 1, lag=300) == [300]
    with pytest.raises(BadInput, match="lags from 5 to 0"):
        lags_of(5, 0, 1)


def test_a_window_of_625_ms_has_320_samples_centred_at_onset_plus_lag():
    assert rows_of(0.625, 512) == 320
    assert first_rows(np.array([10.0]), 200, 0.625, 512) == round((10.2 - 0.3125) * 512)

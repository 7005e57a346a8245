"""No row is fitted that tells on a scored one."""

import numpy as np
import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.splits import by_name, folds, grouped, last_part


def test_the_last_part_lies_behind_a_gap():
    fit, score = last_part(100, 0.2, gap=5)
    assert fit.tolist() == list(range(75))
    assert score.tolist() == list(range(80, 100))
    with pytest.raises(BadInput, match="10 rows leave 0 to fit and 5 to score"):
        last_part(10, 0.5, gap=8)


@pytest.mark.parametrize(("rows", "number", "gap"), [(100, 5, 0), (103, 4, 7), (6, 6, 0)])
def test_folds_score_each_row_once_and_fit_none_near_it(rows, number, gap):
    scored = []
    for fit, score in folds(rows, number, gap):
        apart = np.abs(fit[:, None] - score[None]).min(axis=1)
        assert apart.min() == gap + 1
        assert len(fit) >= rows - len(score) - 2 * gap
        scored += score.tolist()
    assert scored == list(range(rows))
    with pytest.raises(BadInput, match="1 folds of 5 rows"):
        list(folds(5, 1))


def test_groups_are_whole_and_folds_even():
    groups = np.repeat([f"g{i}" for i in range(23)], np.arange(1, 24))
    sizes, seen = [], []
    for fit, score in grouped(groups, 4):
        assert not {*groups[fit]} & {*groups[score]}
        assert len(fit) + len(score) == len(groups)
        sizes.append(len(score))
        seen += score.tolist()
    assert sorted(seen) == list(range(len(groups)))
    assert max(sizes) - min(sizes) <= 3
    alike = np.repeat(np.arange(20), 3)
    first = [s.tolist() for _, s in grouped(alike, 4)]
    assert first == [s.tolist() for _, s in grouped(alike, 4)]
    assert first != [s.tolist() for _, s in grouped(alike, 4, seed=1)]
    with pytest.raises(BadInput, match="3 folds of 2 groups"):
        list(grouped(["a", "b", "a"], 3))


def test_parts_by_name():
    names = ["train", "val", "train", "test"]
    fit, score = by_name(names, ["train"], ["test"])
    assert (fit.tolist(), score.tolist()) == ([0, 2], [3])
    with pytest.raises(BadInput, match="no part tset; there are: test, train, val"):
        by_name(names, ["train"], ["tset"])
    with pytest.raises(BadInput, match="val: to fit and to score"):
        by_name(names, ["train", "val"], ["val"])

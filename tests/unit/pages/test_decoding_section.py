"""The sentence that says what decoders' scores mean."""

import math

import pytest

from ndt3_dist.pages.decoding import meaning, score_rows
from ndt3_dist.pages.words import R2


def evaluation(dims=("x (cm/s)", "y (cm/s)"), **r2) -> dict:
    scores = {name: {"r2": value, "bins": 9000} for name, value in r2.items()}
    return {"scores": scores, "dims": list(dims), "session": "demo-A-10"}


def told(found: dict, best_possible: float | None = None) -> str:
    return "".join(map(str, meaning(found, best_possible)))


def test_the_sentence_says_what_r2_is_and_how_good_the_best_is():
    assert told(evaluation(readout=0.847, scratch=0.647, ridge=0.83), 0.893) == (
        f"{R2} is the share of the variance of velocity that is explained on 9,000 bins of "
        "demo-A-10 that no decoder saw (1 = perfect, 0 = no better than their mean): readout is "
        "best with 0.847, 0.017 above the ridge and 0.046 below the best possible (0.893)"
    )


@pytest.mark.parametrize(
    ("found", "end"),
    [
        (evaluation(a=0.7, ridge=0.83), "the ridge is best with 0.830, 0.130 above a"),
        (evaluation(a=0.8301, ridge=0.83), "a is best with 0.830, as good as the ridge"),
        (evaluation(a=0.5, b=0.6, mean=0.7), "the mean of the models is best with 0.700"),
        (evaluation(a=0.5, ridge=math.nan), "a is best with 0.500"),
    ],
)
def test_only_what_is_known_is_compared(found, end):
    assert told(found).endswith(f"): {end}")


def test_without_a_score_nothing_is_said():
    assert meaning(evaluation(a=math.nan), 0.9) == []


def test_what_is_decoded_is_named_and_what_may_have_been_seen_is_not_called_unseen():
    assert "variance of velocity that" in told(evaluation(("a (deg/s)",), a=0.5))
    assert "variance of x (cm), y (cm/s) that" in told(evaluation(("x (cm)", "y (cm/s)"), a=0.5))
    many = tuple(f"muscle {n} (uV)" for n in range(7))
    assert "variance of all 7 covariates that" in told(evaluation(many, a=0.5))
    seen = {**evaluation(a=0.5), "seen": ["a may have seen it"]}
    assert "that a decoder may have seen" in told(seen)
    assert "no decoder saw" not in told(seen)


def test_the_best_possible_is_the_last_row_of_scores():
    assert [row["decoder"] for row in score_rows(evaluation(a=0.5))] == ["a"]
    rows = score_rows(evaluation(a=0.5), 0.9)
    assert (rows[-1]["decoder"], rows[-1]["r2"]) == ("best possible", "0.900")
    assert rows[0].keys() == rows[1].keys()

"""What is answered to bins that come, come late, come twice, or do not come."""

import numpy as np
import pytest
from live_parts import CHANNELS, answers_of

from ndt3_dist.errors import BadInput
from ndt3_dist.live.answering import Policy
from ndt3_dist.live.frames import Flag


class Time:
    now = 100.0

    def __call__(self):
        return self.now


def counts(value=1):
    return np.full(CHANNELS, value, np.uint8)


@pytest.fixture
def time():
    return Time()


def test_bins_in_order_are_decoded_in_raw_units(time):
    answers = answers_of(time)
    found = []
    for number in range(5, 8):
        found.append(answers.take(number, counts(number), time.now))
        time.now += 0.02
    assert [a.sequence for a in found] == [5, 6, 7]
    assert [a.covariates.tolist() for a in found] == [[60, 1], [72, 2], [84, 3]]
    assert {a.flags for a in found} == {0}
    assert found[0].covariates.dtype == np.float32
    assert answers.take(8, counts(), time.now, predict=False) is None
    tally = answers.tally
    assert (tally.bins, tally.observed, tally.late, tally.missed) == (4, 1, 0, 0)
    assert tally.took.total == 4


def test_lost_bins_are_filled_up_to_a_number_and_beyond_it_all_is_forgotten(time):
    answers = answers_of(time, fill=3)
    answers.take(0, counts(), time.now)
    found = answers.take(4, counts(), time.now)
    assert found.flags == Flag.FILLED
    assert answers.decoder.seen == [[1] * 6, [0] * 6, [0] * 6, [0] * 6, [1] * 6]
    found = answers.take(9, counts(), time.now)
    assert found.flags == Flag.RESET
    assert answers.decoder.seen == [[1] * 6]
    assert (answers.tally.lost, answers.tally.filled, answers.tally.resets) == (7, 3, 1)


def test_a_number_that_came_is_refused_until_a_reset(time):
    answers = answers_of(time)
    answers.take(7, counts(), time.now)
    for number in (7, 3):
        with pytest.raises(BadInput, match=f"bin {number} after bin 7; expected 8"):
            answers.take(number, counts(), time.now)
    assert answers.tally.duplicates == 2
    assert len(answers.decoder.seen) == 1
    with pytest.raises(BadInput, match="has 5 counts; expected 6"):
        answers.take(8, counts()[:5], time.now)
    answers.reset()
    assert answers.due_s() is None
    assert answers.take(3, counts(), time.now).covariates[1] == 1


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, [[12, 1], [12, 1]]),
        ({"fallback": "zero"}, [[0, 0], [0, 0]]),
        ({"fallback": "nan"}, [[np.nan] * 2] * 2),
        ({"decay_ms": 20}, np.outer(np.exp([-1, -2]), [12, 1])),
    ],
)
def test_the_fall_back_is_due_after_silence_and_at_each_bin_from_then_on(time, policy, expected):
    answers = answers_of(time, **policy)
    assert answers.due_s() is None
    answers.take(3, counts(), time.now)
    found = []
    for bins in (2, 3):
        assert answers.due_s() == pytest.approx(100 + 0.02 * bins)
        found.append(answers.stand_in())
    assert [a.sequence for a in found] == [4, 5]
    assert {a.flags for a in found} == {Flag.FALLBACK}
    np.testing.assert_allclose([a.covariates for a in found], expected, rtol=1e-6)
    time.now += 0.05
    late = answers.take(4, counts(2), time.now)  # its fall-back is out
    assert late.flags == Flag.LATE
    assert late.covariates.tolist() == [24, 2]
    assert answers.due_s() == pytest.approx(time.now + 0.04)
    assert (answers.tally.fallbacks, answers.tally.late) == (2, 1)


def test_what_is_held_before_anything_was_predicted_is_zero(time):
    answers = answers_of(time)
    answers.take(0, counts(), time.now, predict=False)
    assert answers.stand_in().covariates.tolist() == [0, 0]


def test_silence_is_counted_from_the_last_answer_and_a_slow_step_is_a_missed_deadline(time):
    answers = answers_of(time, late_ms=30)

    def slow():
        time.now += 0.1

    answers.decoder.before_step = slow
    first = answers.take(0, counts(), time.now)
    assert first.flags == Flag.MISSED
    answers.decoder.before_step = lambda: None
    assert answers.due_s() == pytest.approx(100.13)
    assert answers.take(1, counts(), time.now).flags == 0  # it lay in the socket meanwhile
    assert answers.tally.missed == 1
    assert answers.tally.took.most_ms == pytest.approx(100)


def test_a_policy_that_makes_no_sense_is_refused():
    for wrong in ({"fallback": "x"}, {"late_ms": -1}, {"decay_ms": np.inf}, {"fill": -1}):
        with pytest.raises(BadInput, match="expected"):
            Policy(**wrong)

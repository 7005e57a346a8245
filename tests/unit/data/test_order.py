"""The order of the data is a pure function; nothing is lost, repeated or split."""

import numpy as np
import pytest

from ndt3_dist.data.order import Cursor, Order, Place, fit_rows, generator
from ndt3_dist.errors import BadInput


def make_order(seed=0, samples=97, block=32, fingerprint="f"):
    tokens = generator("tokens", samples).integers(100, 900, samples)
    return Order(fingerprint, seed, tokens, 2048, block)


@pytest.mark.parametrize("trial", range(30))
def test_rows_hold_every_sample_once_and_never_overflow(trial):
    draw = generator("rows", trial)
    tokens = draw.integers(1, 500, int(draw.integers(1, 200)))
    rows = fit_rows(tokens, 512)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(tokens)))
    assert max(int(tokens[r].sum()) for r in rows) <= 512
    # First fit never leaves two rows that could share one.
    sums = sorted(int(tokens[r].sum()) for r in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > 512


def test_an_epoch_is_a_permutation_and_epochs_differ():
    order = make_order()
    first, second = (np.concatenate(order.epoch_rows(e)) for e in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(97))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("change", [{"seed": 1}, {"fingerprint": "g"}])
def test_seed_and_fingerprint_decide_the_order(change):
    same, other = make_order(), make_order(**change)
    flat = [np.concatenate(o.epoch_rows(0)).tolist() for o in (make_order(), same, other)]
    assert flat[0] == flat[1] != flat[2]


@pytest.mark.parametrize("rows_per_step", [1, 3, 7])
def test_going_on_from_any_place_repeats_the_same_rows(rows_per_step):
    order = make_order()
    cursor = Cursor(order, Place())
    places, taken = [Place()], []
    for _ in range(60):
        rows, place = cursor.take(rows_per_step)
        taken.append([(e, r.tolist()) for e, r in rows])
        places.append(place)
    assert places[-1].epoch > 1  # borders of epochs are crossed in the middle of steps
    for step in (0, 1, 13, 30, 59):
        rows, place = Cursor(order, places[step]).take(rows_per_step)
        assert [(e, r.tolist()) for e, r in rows] == taken[step]
        assert place == places[step + 1]


def test_samples_seen_counts_samples_and_position_counts_rows():
    order = make_order()
    cursor = Cursor(order, Place())
    total, rows_taken = 0, 0
    for _ in range(40):
        rows, place = cursor.take(5)
        total += sum(len(r) for _, r in rows)
        rows_taken += 5
        assert (place.samples_seen, place.position) == (total, rows_taken)


def test_a_window_that_fits_no_row_is_refused():
    with pytest.raises(BadInput, match=r"data\.row_tokens is 100"):
        Order("f", 0, np.array([50, 101]), 100, 8)

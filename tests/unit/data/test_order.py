"""The order of the data is a pure function; nothing is lost, repeated or split."""

import numpy as np
import pytest

from ndt3_dist.data.order import Order, Place, count_rows, fit_rows, generator


def make_order(seed=0, samples=97, block=32, fingerprint="f", lanes=3, capacity=2048):
    """An order over samples of random lengths, `block` of them in each block."""
    tokens = generator("tokens", samples).integers(100, 900, samples)
    blocks = [np.arange(i, min(i + block, samples)) for i in range(0, samples, block)]
    rows = np.array([len(fit_rows(tokens[b], capacity)) for b in blocks])

    def samples_of(block):
        return blocks[block], tokens[blocks[block]]

    return Order(fingerprint, seed, rows, samples_of, capacity, lanes)


def epoch(order, number=0) -> list[list[int]]:
    start = number * order.epoch_rows
    rows = [order.row(p) for p in range(start, start + order.epoch_rows)]
    assert {e for e, _ in rows} == {number}
    return [samples.tolist() for _, samples in rows]


def first_fit_decreasing(tokens, capacity) -> list[list[int]]:
    """The plain algorithm, one sample after the other."""
    rows, free = [], []
    for sample in np.argsort(-tokens, kind="stable").tolist():
        row = next((r for r, f in enumerate(free) if f >= tokens[sample]), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(capacity)
        rows[row].append(sample)
        free[row] -= tokens[sample]
    return rows


@pytest.mark.parametrize("trial", range(50))
def test_rows_are_those_of_plain_first_fit_decreasing(trial):
    draw = generator("rows", trial)
    few = draw.integers(1, 500, int(draw.integers(1, 12)))  # corpora have few lengths
    tokens = draw.choice(few, int(draw.integers(1, 200)))
    rows = fit_rows(tokens, 512)
    assert [r.tolist() for r in rows] == first_fit_decreasing(tokens, 512)
    lengths, counts = np.unique(tokens, return_counts=True)
    assert count_rows(lengths[::-1], counts[::-1], 512) == len(rows)


def test_no_sample_no_row():
    assert fit_rows(np.empty(0, np.int64), 512) == []


@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 64, 10**6])
@pytest.mark.parametrize(("samples", "block"), [(97, 32), (97, 200), (1, 1), (40, 1)])
def test_an_epoch_is_a_permutation_and_epochs_differ(lanes, samples, block):
    order = make_order(samples=samples, block=block, lanes=lanes)
    first, second = ([s for row in epoch(order, e) for s in row] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(samples))
    assert first != second or samples == 1


def test_a_step_mixes_as_many_blocks_as_there_are_lanes():
    order = make_order(samples=4000, block=100, lanes=8)
    rows = epoch(order)
    for start in range(0, len(rows) - 8, 8):
        blocks = {row[0] // 100 for row in rows[start : start + 8]}
        assert len(blocks) == 8
    of_lane = [[row[0] // 100 for row in rows[lane::8]] for lane in range(8)]
    # A lane goes through its blocks one after the other, and shares the first and last alone.
    for blocks in of_lane:
        assert len(np.flatnonzero(np.diff(blocks))) == len(set(blocks)) - 1 <= 6


@pytest.mark.parametrize("change", [{"seed": 1}, {"fingerprint": "g"}])
def test_seed_and_fingerprint_decide_the_order(change):
    flat = [epoch(o) for o in (make_order(), make_order(), make_order(**change))]
    assert flat[0] == flat[1] != flat[2]


@pytest.mark.parametrize("rows_per_step", [1, 3, 7])
def test_going_on_from_any_place_repeats_the_same_rows(rows_per_step):
    order, place = make_order(), Place()
    places, taken = [Place()], []
    for _ in range(60):
        rows, place = order.take(place, rows_per_step)
        taken.append([(e, r.tolist()) for e, r in rows])
        places.append(place)
    assert taken[-1][0][0] > 1  # borders of epochs are crossed in the middle of steps
    for step in (0, 1, 13, 30, 59):
        rows, place = make_order().take(places[step], rows_per_step)
        assert [(e, r.tolist()) for e, r in rows] == taken[step]
        assert place == places[step + 1]


def test_samples_seen_counts_samples_and_position_counts_rows():
    order, place = make_order(), Place()
    total = 0
    for step in range(1, 41):
        rows, place = order.take(place, 5)
        total += sum(len(r) for _, r in rows)
        assert (place.samples_seen, place.position) == (total, 5 * step)


def test_what_is_remembered_does_not_grow_with_the_corpus():
    order = make_order(samples=20_000, block=50, lanes=4)
    for position in range(order.epoch_rows):
        order.row(position)
    assert order.rows_of.cache_info().currsize <= 2 * 4 + 2
    # Each block was planned once, but for those that two lanes share.
    assert order.rows_of.cache_info().misses <= len(order.rows) + 3

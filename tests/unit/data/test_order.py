"""The order of the data is a pure function; nothing is lost, repeated or split."""

import itertools

import numpy as np
import pytest

from ndt3_dist.data.order import Order, count_rows, fit_rows, fullest, generator


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


def first_fit_decreasing(tokens, capacity) -> int:
    """Rows that the plain algorithm makes, one sample after the other."""
    free = []
    for sample in np.sort(tokens)[::-1].tolist():
        row = next((r for r, f in enumerate(free) if f >= sample), None)
        if row is None:
            free.append(capacity - sample)
        else:
            free[row] -= sample
    return len(free)


@pytest.mark.parametrize("trial", range(50))
def test_rows_hold_every_sample_once_and_never_overflow(trial):
    draw = generator("rows", trial)
    some = draw.integers(1, 500, int(draw.integers(1, 60)))
    tokens = draw.choice(some, int(draw.integers(1, 200)))
    rows = fit_rows(tokens, 512)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(tokens)))
    assert max(int(tokens[r].sum()) for r in rows) <= 512
    assert all((np.diff(tokens[r]) <= 0).all() for r in rows)
    lengths, counts = np.unique(tokens, return_counts=True)
    assert count_rows(lengths[::-1], counts[::-1], 512) == len(rows)
    assert len(rows) <= first_fit_decreasing(tokens, 512) + 1


@pytest.mark.parametrize("trial", range(100))
def test_the_fullest_row_is_the_fullest(trial):
    draw = generator("fullest", trial)
    lengths = np.unique(draw.integers(1, 40, int(draw.integers(1, 5))))[::-1].tolist()
    counts = draw.integers(1, 4, len(lengths)).tolist()
    capacity = int(draw.integers(lengths[0], 100))
    taken = fullest(lengths, counts, capacity)
    assert taken[0] >= 1
    assert all(t <= c for t, c in zip(taken, counts, strict=True))
    choices = itertools.product(*(range(c + 1) for c in counts))
    sums = [np.dot(c, lengths) for c in choices if c[0] >= 1]
    assert np.dot(taken, lengths) == max(s for s in sums if s <= capacity)


def test_windows_of_ndt3s_lengths_fill_their_rows():
    """Two seconds with 1 to 6 patches and 1 to 6 covariates, context tokens, some cut short."""
    draw = generator("mixture")
    bins = np.where(draw.random(8192) < 0.8, 100, draw.integers(20, 100, 8192))
    dims = draw.integers(1, 7, 8192)
    tokens = bins * (draw.integers(1, 7, 8192) + dims) + dims + 1
    rows = fit_rows(tokens, 4096)
    assert tokens.sum() / (4096 * len(rows)) > 0.98


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


def test_what_is_remembered_does_not_grow_with_the_corpus():
    order = make_order(samples=20_000, block=50, lanes=4)
    for position in range(order.epoch_rows):
        order.row(position)
    assert order.rows_of.cache_info().currsize <= 2 * 4 + 2
    # Each block was planned once, but for those that two lanes share.
    assert order.rows_of.cache_info().misses <= len(order.rows) + 3


def test_steps_are_as_mixed_as_those_of_a_permutation():
    """Forty sessions, dealt to shards at random as corpora are: sessions of a step, any trend."""
    sessions = generator("sessions").permutation(np.repeat(np.arange(40), 500))
    order = make_order(samples=20_000, block=1000, lanes=16)
    rows = [row for e in range(3) for row in epoch(order, e)]
    shuffled = generator("true").permutation(20_000)

    def quality(stream):
        steps = [stream[i : i + 64] for i in range(0, len(stream) - 64, 64)]
        distinct = np.mean([len(set(sessions[s].tolist())) for s in steps])
        most = np.mean([np.bincount(sessions[s]).max() for s in steps])
        return distinct, most

    ours, true = quality(np.concatenate(rows)), quality(np.tile(shuffled, 3))
    np.testing.assert_allclose(ours, true, rtol=0.02)
    first = np.concatenate(rows[: order.epoch_rows])
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.02

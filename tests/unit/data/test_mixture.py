"""Sources by weight: exact shares, nothing again before its time, the same for any world."""

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus
from streams import digest, make_streams, walk

from ndt3_dist.data import mixture
from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.mixture import Mixture, rows_of_period, spread
from ndt3_dist.data.order import Cursor, generator
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus

THREE = [
    {"sessions": ["t-S-01"], "weight": 1},
    {"sessions": ["t-S-02", "t-S-01"], "weight": 2},
    {"sessions": ["*"], "weight": 5},
]


@pytest.fixture(autouse=True)
def short_period(monkeypatch):
    monkeypatch.setattr(mixture, "PERIOD", 3000)  # quicker; cases pass it


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> str:
    """Five sessions of 60, 30, 60, 60 and 60 windows in four shards."""
    out = tmp_path_factory.mktemp("many") / "c"
    write_corpus(out, [make_recording(i, 60 if i == 2 else 120, [40]) for i in range(1, 6)], 4)
    return str(out)


def sources(corpus, steps) -> list[list[int]]:
    """Source of each window of each step: 0 is session 01, 1 is 02, 2 all others."""
    session = Corpus(corpus).index["session"]
    return [
        [min(int(session[n]), 2) for step in ranks for *_, row in step.rows for n in row.tolist()]
        for ranks in steps
    ]


@pytest.mark.parametrize("trial", range(60))
def test_no_prefix_holds_a_row_more_or_less_than_its_share(trial):
    draw = generator("spread", trial)
    counts = draw.integers(0 if trial % 2 else 1, 200, int(draw.integers(1, 10)))
    counts[0] += 1
    sequence = spread(tuple(counts.tolist()))
    had = np.cumsum(sequence[:, None] == np.arange(len(counts)), axis=0)
    shares = np.arange(1, len(sequence) + 1)[:, None] * counts / counts.sum()
    assert np.abs(had - shares).max() < 1
    assert had[-1].tolist() == counts.tolist()


@pytest.mark.parametrize("trial", range(60))
def test_a_period_keeps_shares_to_a_row(trial):
    draw = generator("period", trial)
    weights = draw.random(int(draw.integers(1, 8))) ** 3
    weights[1:] *= draw.random(len(weights) - 1) < 0.8  # some are 0
    per_row = draw.uniform(1, 50, len(weights))
    counts = rows_of_period(weights, per_row)
    exact = weights / per_row / (weights / per_row).sum() * counts.sum()
    assert counts.sum() == mixture.PERIOD
    assert np.abs(counts - exact).max() <= len(weights)
    assert ((counts > 0) == (weights > 0)).all()  # nothing with a weight is left out


def test_rows_of_a_source_come_one_after_the_other():
    begun = np.array([3, 0, 7])
    mixed, had = Mixture((10, 0, 14), begun), begun.copy()
    for row in range(5 * 24):
        assert (mixed.rows_before(row) == had).all()
        source, nth = mixed.row(row)
        assert nth == had[source]
        had[source] += 1
    assert (had - begun).tolist() == [50, 0, 70]


@pytest.mark.parametrize("trial", range(20))
def test_any_steps_hold_each_source_within_two_rows_of_its_share(many, tiny_model, trial):
    draw = generator("any steps", trial)
    batch, lanes = int(draw.integers(1, 40)), int(draw.choice([1, 3, 8, 64]))
    weights = [{**part, "weight": float(draw.uniform(0.1, 5))} for part in THREE]
    options = {"batch": (batch, 1), "lanes": lanes, "mixture": weights}
    (stream,) = make_streams(many, tiny_model, **options)
    steps = 300
    rows = [stream.plan.row(p)[0] for p in range(steps * batch)]
    of = {id(s): i for i, s in enumerate(stream.plan.sources.every)}
    found = np.array([of[id(s)] for s in rows]).reshape(steps, batch)
    had = np.cumsum([(found == i).sum(1) for i in range(3)], axis=1)  # (sources, steps)
    exact = np.arange(1, steps + 1) * batch * stream.plan.shares[:, None]
    assert np.abs(had - exact).max() < 1  # so any stretch of steps is within two


@pytest.mark.parametrize(
    ("by", "expected"),
    # Windows of the first source have 400 tokens, of the second 800.
    [("windows", [0.25, 0.75]), ("tokens", [0.40, 0.60]), ("hours", [0.25, 0.75])],
)
def test_sources_come_by_weight(tmp_path, tiny_model, by, expected):
    write_corpus(tmp_path / "c", [make_recording(1, 60, [40]), make_recording(2, 60, [90, 90])])
    weights = [{"sessions": ["*-01"], "weight": 1}, {"sessions": ["*"], "weight": 3}]
    streams = make_streams(tmp_path / "c", tiny_model, mixture=weights, mixture_by=by, workers=0)
    found = np.concatenate(sources(tmp_path / "c", walk(streams, 100)))
    assert np.bincount(found) / len(found) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("batch", [1, 3, 8, 50])
def test_a_source_is_passed_through_before_it_begins_again(many, tiny_model, batch):
    (stream,) = make_streams(many, tiny_model, batch=(batch, 1), mixture=THREE, lanes=8)
    drawn = [stream.plan.row(p) for p in range(2000)]
    for source in stream.plan.sources.every:
        numbers = [n for of, _, samples in drawn if of is source for n in samples.tolist()]
        everything = sorted(
            n for b in range(len(source.blocks.rows)) for n in source_numbers(source, b)
        )
        size = len(everything)
        first, second = numbers[:size], numbers[size : 2 * size]
        assert sorted(first) == sorted(second) == everything
        assert first != second


def source_numbers(source, block) -> list[int]:
    return source.blocks.samples_of(block)[0].tolist()


@pytest.mark.parametrize("trial", range(12))
def test_any_number_of_ranks_can_go_on_at_any_step_with_other_weights(many, tiny_model, trial):
    draw = generator("other weights", trial)
    micro, lanes = int(draw.integers(1, 3)), int(draw.choice([1, 5, 8, 16, 64]))
    options = {"lanes": lanes, "covariate_mask_rate": 0.5}
    state, place = None, Cursor()
    for _ in range(3):  # the run is resumed twice, with other weights and perhaps larger steps
        options["batch"] = (8 * micro * int(draw.integers(1, 3)), micro)
        weights = draw.uniform(0, 3, 3)
        options["mixture"] = [
            {**p, "weight": float(w)} for p, w in zip(THREE, weights, strict=True)
        ]
        whole = make_streams(many, tiny_model, state=state, workers=0, **options)
        alone, cut = walk(whole, 5, place), int(draw.integers(0, 4))
        world, workers = int(draw.choice([2, 4, 8])), int(draw.choice([0, 1, 3]))
        again = make_streams(many, tiny_model, world, state=state, workers=workers, **options)
        assert digest(walk(again, 5, place)) == digest(alone)
        # The state of its middle says as much.
        half = whole[0].state(alone[cut][0].after)
        later = make_streams(many, tiny_model, world, state=half, workers=workers, **options)
        assert later[0].start == alone[cut][0].after
        assert digest(walk(later, 4 - cut, later[0].start)) == digest(alone[cut + 1 :])
        state = whole[0].state(alone[-1][0].after)
        place = alone[-1][0].after
    assert len(state["stretches"]) == 3


def test_other_weights_repeat_nothing_of_a_pass(many, tiny_model):
    options = {"batch": (4, 1), "lanes": 2, "workers": 0}
    other = [{**part, "weight": 1} for part in THREE]
    (first,) = make_streams(many, tiny_model, mixture=THREE, **options)
    alone = walk([first], 12)
    state = first.state(alone[-1][0].after)
    (second,) = make_streams(many, tiny_model, mixture=other, state=state, **options)
    for source in range(3):
        seen = {}
        for position in range(12 * 4 + 400):
            of, epoch, samples = second.plan.row(position)
            if of is second.plan.sources.every[source]:
                seen.setdefault(epoch, []).extend(samples.tolist())
        assert all(len(set(numbers)) == len(numbers) for numbers in seen.values())
    assert [s["position"] for s in second.plan.state()] == [0, 48]
    assert second.plan.phases[1].samples_seen == alone[-1][0].after.samples_seen
    for position in range(48):  # what was, a replay finds again
        (_, *before), (_, *now) = (s.plan.row(position) for s in (first, second))
        assert str(before) == str(now)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (THREE[:2], r"3 sessions are of no source of data\.mixture: t-S-03"),
        ([{"sessions": ["x*"], "weight": 1}], r"no session matches 'x\*'"),
        ([THREE[2], THREE[0]], r"data\.mixture\.1\.sessions .* leave no window"),
    ],
)
def test_sources_that_name_nothing_or_too_little_are_refused(many, tiny_model, parts, message):
    with pytest.raises(BadInput, match=message):
        make_streams(many, tiny_model, mixture=parts)


def test_weights_that_are_all_nothing_are_refused():
    with pytest.raises(ValueError, match="all weights are 0"):
        DataConfig(mixture=[{"sessions": ["*"], "weight": 0}])

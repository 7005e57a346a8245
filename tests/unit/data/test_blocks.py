"""Which samples are trained on: by name, by share, by cap; all the same for every rank."""

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.data.blocks import Chosen, mix
from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.feed import Feed
from ndt3_dist.errors import BadInput
from ndt3_dist.model.tokenise import NDT3Packing
from ndt3_dist.shards.corpus import Corpus


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> str:
    """Four sessions of 60 windows, t-S-01 to t-S-04, in two shards."""
    out = tmp_path_factory.mktemp("many") / "c"
    write_corpus(out, [make_recording(i, 120, [40]) for i in (1, 2, 3, 4)])
    return str(out)


def choose(corpus, model, data: DataConfig, seed=0) -> Chosen:
    opened = Corpus(corpus)
    return Chosen(Feed(opened, data, NDT3Packing(opened.manifest.sessions, model), seed))


def chosen(corpus, model, seed=0, **data) -> list[int]:
    (blocks,) = choose(corpus, model, DataConfig(row_tokens=1024, **data), seed).sources
    numbers = [blocks.samples_of(b)[0] for b in range(len(blocks.rows))]
    assert [len(n) for n in numbers] == blocks.samples.tolist()
    return np.concatenate(numbers).tolist()


def per_session(corpus, numbers) -> list[int]:
    sessions = Corpus(corpus).index["session"][numbers]
    return np.bincount(sessions, minlength=4).tolist()


def test_everything_is_taken_where_nothing_is_said(many, tiny_model):
    assert chosen(many, tiny_model) == list(range(240))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"sessions": ["t-S-0[12]"]}, [60, 60, 0, 0]),
        ({"exclude": ["t-S-03"]}, [60, 60, 0, 60]),
        ({"sessions": ["*-01", "*-03"], "exclude": ["t-S-03"]}, [60, 0, 0, 0]),
        ({"scale_ratio": 0.1}, [6, 6, 6, 6]),
        ({"max_windows_per_session": 7}, [7, 7, 7, 7]),
        ({"max_windows_per_session": 1000}, [60, 60, 60, 60]),
        ({"scale_ratio": 0.5, "max_windows_per_session": 7, "exclude": ["*-04"]}, [7, 7, 7, 0]),
    ],
)
def test_sessions_keep_what_they_may(many, tiny_model, data, expected):
    assert per_session(many, chosen(many, tiny_model, **data)) == expected


def test_smaller_shares_lie_within_larger_ones_and_follow_the_seed(many, tiny_model):
    small, large = (set(chosen(many, tiny_model, scale_ratio=r)) for r in (0.1, 0.5))
    assert small < large
    assert small != set(chosen(many, tiny_model, seed=1, scale_ratio=0.1))


@pytest.mark.parametrize("key", ["sessions", "exclude"])
def test_a_pattern_that_names_nothing_is_refused(many, tiny_model, key):
    with pytest.raises(BadInput, match=r"no session matches 't-s-\*'.*t-S-01, t-S-02"):
        chosen(many, tiny_model, **{key: ["t-s-*"]})


def test_patterns_that_leave_nothing_are_refused(many, tiny_model):
    with pytest.raises(BadInput, match="leave no window"):
        chosen(many, tiny_model, exclude=["*"])


def test_a_window_that_fits_no_row_is_refused(many, tiny_model):
    with pytest.raises(BadInput, match=r"400 tokens does not fit a row; data\.row_tokens is 100"):
        choose(many, tiny_model, DataConfig(row_tokens=100))


@pytest.mark.parametrize(("block_samples", "expected"), [(1, [0, 1, 2]), (121, [0, 2])])
def test_blocks_are_whole_shards(many, tiny_model, block_samples, expected):
    data = DataConfig(block_samples=block_samples)
    (blocks,) = choose(many, tiny_model, data).sources
    assert blocks.first.tolist() == expected
    assert blocks.tokens.sum() == 240 * 400


def test_draws_are_spread_evenly():
    draws = mix(np.arange(100_000)) / 2.0**64
    counts, _ = np.histogram(draws, 20, (0, 1))
    assert abs(counts - 5000).max() < 5 * np.sqrt(5000)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02

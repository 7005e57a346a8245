"""A run may go on with its corpus extended, from its next epoch on; never with another one."""

import shutil

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus
from streams import digest, make_streams, rows_of, walk

from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import read_manifest


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> list[str]:
    """A corpus of two sessions, extended by one, extended by another, and one that is not."""
    folder = tmp_path_factory.mktemp("extended")
    recordings = [make_recording(i, 60, [40]) for i in (1, 2, 3, 4)]
    write_corpus(folder / "0", recordings[:2])
    for number in (1, 2):
        shutil.copytree(folder / str(number - 1), folder / str(number))
        extends = read_manifest(str(folder / str(number)))
        write_corpus(folder / str(number), recordings[number + 1 : number + 2], extends=extends)
    write_corpus(folder / "other", recordings[2:])
    return [str(folder / name) for name in ("0", "1", "2", "other")]


def streams_of(corpus, model, world_size=1, state=None, **options):
    options = {"batch": (4, 1), "lanes": 3, "workers": 0, **options}
    return make_streams(corpus, model, world_size, state=state, **options)


def samples(steps) -> list[int]:
    return [n for ranks in steps for *_, row in rows_of(ranks) for n in row.tolist()]


def state_after(streams, steps) -> dict:
    return streams[0].state(walk(streams, steps)[-1][0].after)


def test_the_epoch_that_has_begun_is_walked_to_its_end(corpora, tiny_model):
    small = streams_of(corpora[0], tiny_model)
    rows, size = small[0].plan.epoch_rows, len(Corpus(corpora[0]))
    state = state_after(small, 2)
    large = streams_of(corpora[1], tiny_model, state=state)
    before, after = (s.position for s in large[0].plan.phases)
    assert (before, after) == (0, rows)
    assert 8 < rows % 4 + 8 < rows  # steps lie across the border
    steps = walk(large, 40, large[0].start)
    stream = samples(walk(small, 2)) + samples(steps)
    assert sorted(stream[:size]) == list(range(size))
    everything = len(Corpus(corpora[1]))
    assert everything > size
    assert sorted(stream[size : size + everything]) == list(range(everything))
    old = samples(walk(small, rows // 4))
    assert stream[: len(old)] == old


def test_epochs_count_on(corpora, tiny_model):
    small = streams_of(corpora[0], tiny_model)
    large = streams_of(corpora[1], tiny_model, state=state_after(small, 2))[0]
    assert large.plan.phases[1].epochs == 1
    places = [large.start, *(ranks[0].after for ranks in walk([large], 30, large.start))]
    epochs = [large.plan.epochs(p) for p in places]
    assert (np.diff(epochs) > 0).all()
    border = large.plan.phases[1]
    later = [p for p in places if p.position > border.position]
    for place in later:
        seen = place.samples_seen - border.samples_seen
        assert large.plan.epochs(place) == 1 + seen / len(Corpus(corpora[1]))


@pytest.mark.parametrize("world_size", [2, 4])
def test_it_is_the_same_for_any_world_and_from_any_step(corpora, tiny_model, world_size):
    small = streams_of(corpora[0], tiny_model)
    state = state_after(small, 2)
    alone = walk(streams_of(corpora[1], tiny_model, state=state), 20, small[0].start)
    for step in range(0, 20, 3):
        streams = streams_of(corpora[1], tiny_model, world_size, state)
        half = streams[0].state(alone[step][0].after)
        again = streams_of(corpora[1], tiny_model, world_size, half, workers=1)
        assert len(again[0].plan.phases) == 2
        later = walk(again, 20 - step - 1, again[0].start)
        assert digest(later) == digest(alone[step + 1 :])


def test_what_has_not_begun_is_forgotten(corpora, tiny_model):
    small = streams_of(corpora[0], tiny_model)
    state = state_after(small, 2)
    once = streams_of(corpora[1], tiny_model, state=state)
    state = once[0].state(walk(once, 1, once[0].start)[-1][0].after)
    assert len(state["stretches"]) == 2
    back = streams_of(corpora[0], tiny_model, state=state)[0]
    assert len(back.plan.phases) == 1
    larger = streams_of(corpora[2], tiny_model, state=state)[0]
    shards = [s.shards for s in larger.plan.phases]
    assert shards == [len(read_manifest(c).shards) for c in (corpora[0], corpora[2])]


def test_a_corpus_that_has_become_smaller_or_another_is_refused(corpora, tiny_model):
    large = streams_of(corpora[1], tiny_model)
    state = state_after(large, 2)
    for corpus in (corpora[0], corpora[3]):
        with pytest.raises(ResumeMismatch, match="does not begin with it"):
            streams_of(corpus, tiny_model, state=state)


def test_another_corpus_is_taken_where_one_says_so(corpora, tiny_model):
    large = streams_of(corpora[1], tiny_model)
    state = state_after(large, 2)
    state["ledger"] = [{"position": 0, "shard": "000000", "window": "", "reason": "of the other"}]
    other = streams_of(corpora[3], tiny_model, state=state, another_corpus=True)[0]
    assert not other.ledger.entries
    assert other.plan.epochs(other.start) == large[0].plan.epochs(other.start) > 0
    size = len(other.corpus)
    steps = walk([other], 20, other.start)
    assert sorted(samples(steps)[:size]) == list(range(size))
    with pytest.raises(ResumeMismatch, match="row 3 is of another corpus, which the run left at"):
        other.plan.row(3)
    state = other.state(steps[3][0].after)
    again = streams_of(corpora[3], tiny_model, 2, state)
    assert digest(walk(again, 16, again[0].start)) == digest(steps[4:])


def test_sources_by_weight_begin_anew_at_once(corpora, tiny_model):
    mixture = [{"sessions": ["*-01"], "weight": 1}, {"sessions": ["*"], "weight": 1}]
    small = streams_of(corpora[0], tiny_model, mixture=mixture)
    state = state_after(small, 2)
    large = streams_of(corpora[1], tiny_model, state=state, mixture=mixture)[0]
    assert [s.position for s in large.plan.phases] == [0, 8]
    found = set(samples(walk([large], 40, large.start)))
    assert found == set(range(len(large.corpus)))

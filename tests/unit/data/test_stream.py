"""The stream: any number of ranks divides the same global steps."""

import shutil

import numpy as np
import pytest
from small_corpus import make_recording, write_corpus

from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.data.feed import Feed
from ndt3_dist.data.order import Cursor
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import BadInput, ShardCorrupt
from ndt3_dist.model.tokenise import Layout, NDT3Packing, tokenise
from ndt3_dist.shards.corpus import Corpus


def make_stream(corpus, model, rank=0, world_size=1, **model_changes):
    data = DataConfig(row_tokens=1024, block_samples=16)
    model = model.model_copy(update=model_changes)
    opened = Corpus(corpus)
    packing = NDT3Packing(opened.manifest.sessions, model)
    return Stream(Feed(opened, data, packing, 0, 4, 1, rank, world_size))


def take(stream, steps, place=None):
    found = []
    for step in stream.steps(place or Cursor()):
        found.append(step)
        if len(found) == steps:
            return found


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_divide_the_micro_batches_of_one_rank(corpus, tiny_model, world_size):
    alone = take(make_stream(corpus, tiny_model), 6)
    shared = [take(make_stream(corpus, tiny_model, r, world_size), 6) for r in range(world_size)]
    for number, whole in enumerate(alone):
        parts = {m: a for rank in shared for m, a in rank[number].batches}
        assert sorted(parts) == [m for m, _ in whole.batches]
        for m, arrays in whole.batches:
            for name, array in arrays.items():
                np.testing.assert_array_equal(parts[m][name], array, err_msg=name)
        counts = np.sum([rank[number].counts for rank in shared], axis=0)
        assert counts.tolist() == whole.counts


@pytest.mark.parametrize("dummy", [False, True])
def test_counts_of_a_step_are_those_of_its_micro_batches(tmp_path, tiny_model, dummy):
    recordings = [make_recording(i, 20, [40], dims) for i, dims in enumerate((2, 0, 3))]
    write_corpus(tmp_path / "corpus", recordings)
    stream = make_stream(tmp_path / "corpus", tiny_model, dummy_covariate=dummy)
    for step in take(stream, 5):
        arrays = [a for _, a in step.batches]
        spikes = sum(int(a["spike_channels"].sum()) for a in arrays)
        assert step.counts == [spikes, sum(int(a["covariate_valid"].sum()) for a in arrays)]
        assert step.tokens == sum(len(a["time"]) for a in arrays)
        assert all(len(a["time"]) <= 1024 for a in arrays)


def test_going_on_from_a_place_repeats_the_stream(corpus, tiny_model):
    steps = take(make_stream(corpus, tiny_model, covariate_mask_rate=0.5), 8)
    again = take(make_stream(corpus, tiny_model, covariate_mask_rate=0.5), 3, steps[4].after)
    for one, two in zip(steps[5:], again, strict=True):
        for (_, a), (_, b) in zip(one.batches, two.batches, strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_masks_are_keyed_by_sample_and_change_with_the_epoch(corpus, tiny_model):
    stream = make_stream(corpus, tiny_model, covariate_mask_rate=0.5)
    first, same, later = (stream.builder.window(0, epoch).arrays for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first["covariate_blank"], same["covariate_blank"])
    assert (first["covariate_blank"] != later["covariate_blank"]).any()
    assert 0.3 < first["covariate_blank"].mean() < 0.7


@pytest.mark.parametrize("context", [False, True])
def test_tokens_are_counted_without_reading(corpus, tiny_model, context):
    stream = make_stream(corpus, tiny_model, context_tokens=context)
    tokens = stream.tokens_of(np.arange(len(stream.corpus)))
    for number in range(len(stream.corpus)):
        layout = stream.packing.layout(int(stream.corpus.index[number]["session"]))
        arrays, length = tokenise(stream.corpus.read(number), layout, stream.packing.config)
        assert tokens[number] == length == len(arrays["time"])
        slots = [arrays[k] for k in arrays if k.endswith("_slot")]
        assert sorted(np.concatenate(slots).tolist()) == list(range(length))


def test_tokens_of_a_bin_are_in_upstreams_order(corpus, tiny_model):
    stream = make_stream(corpus, tiny_model, context_tokens=True)
    arrays, _ = tokenise(stream.corpus.read(0), stream.packing.layout(0), stream.packing.config)
    key = arrays["time"] * 48 + arrays["space"]
    assert (np.diff(key) > 0).all()


def test_patches_never_straddle_arrays(tiny_model):
    layout = Layout.from_counts([40, 33], 2, tiny_model, "s")
    assert layout.real.tolist() == [32, 8, 32, 1]
    assert layout.columns[1].tolist() == [*range(32, 40), *[73] * 24]
    assert layout.columns[3].tolist() == [72, *[73] * 31]


def test_a_session_that_the_model_cannot_hold_is_refused(tiny_model):
    with pytest.raises(BadInput, match="session s fills 12 patches"):
        Layout.from_counts([192, 192], 2, tiny_model, "s")
    with pytest.raises(BadInput, match="18 covariates"):
        Layout.from_counts([32], 18, tiny_model, "s")


def test_a_flipped_bit_never_reaches_the_model(corpus, tiny_model, tmp_path):
    shutil.copytree(corpus, tmp_path / "c")
    shard = tmp_path / "c" / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 4
    shard.write_bytes(data)
    stream = make_stream(str(tmp_path / "c"), tiny_model)
    with pytest.raises(ShardCorrupt, match=r"000000\.tar: window t-S-0\d-\d+ has crc32"):
        take(stream, 20)

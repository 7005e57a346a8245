"""Damaged windows: never read into a step, replaced alike by every rank and after every restart."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from streams import STEPS, digest, make_streams, rows_of, run_ranks, walk

from ndt3_dist.errors import NoRoom, RankFailed, ShardCorrupt
from ndt3_dist.shards.corpus import Corpus


@pytest.fixture
def damaged(corpus, tmp_path) -> str:
    """A copy of the corpus with one flipped bit in the middle of its first shard."""
    shutil.copytree(corpus, tmp_path / "damaged")
    shard = tmp_path / "damaged" / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    opened = Corpus(corpus)
    data[int(opened.index[1]["spikes"]["offset"]) + 200] ^= 4
    shard.write_bytes(data)
    return str(tmp_path / "damaged")


@pytest.mark.parametrize("world_size", [2, 8])
def test_ranks_replace_damaged_windows_alike(damaged, corpus, tiny_model, world_size):
    streams = make_streams(damaged, tiny_model)
    alone = walk(streams)
    assert [d.window for d in streams[0].ledger.entries] == [streams[0].corpus.key(1)]
    assert "has crc32" in streams[0].ledger.entries[0].reason
    shared = make_streams(damaged, tiny_model, world_size)
    assert digest(walk(shared)) == digest(alone)
    assert all(s.ledger.state() == streams[0].ledger.state() for s in shared)
    used = {n for step in alone for *_, row in step[0].rows for n in row.tolist()}
    assert 1 not in used
    # Everything else keeps its place.
    intact = walk(make_streams(corpus, tiny_model))
    for with_damage, without in zip(alone, intact, strict=True):
        for (*_, ours), (*_, theirs) in zip(with_damage[0].rows, without[0].rows, strict=True):
            np.testing.assert_array_equal(ours[theirs != 1], theirs[theirs != 1])
            tokens = streams[0].tokens_of
            assert tokens(ours).sum() <= tokens(theirs).sum()


def test_a_restart_with_the_ledger_repeats_the_stream(damaged, tiny_model):
    streams = make_streams(damaged, tiny_model)
    whole = walk(streams)
    met = next(i for i, s in enumerate(whole) if s[0].after.position > met_at(streams))
    for step in (met - 1, met, STEPS - 4):  # before it was met, just after, and later
        if step < 0:
            continue
        place = whole[step][0].after
        state = streams[0].state(place)
        state["ledger"] = state["ledger"] if step >= met else []
        again = make_streams(damaged, tiny_model, 2, state=state)
        assert digest(walk(again, 3, place)) == digest(whole[step + 1 : step + 4])


def met_at(streams) -> int:
    return streams[0].ledger.entries[0].position


@pytest.mark.parametrize("how", ["missing", "cut", "longer"])
def test_a_shard_that_cannot_be_read_is_replaced_whole(corpus, tiny_model, tmp_path, how):
    shutil.copytree(corpus, tmp_path / "c")
    shard = Path(tmp_path / "c" / "shards" / "000000.tar")
    data = shard.read_bytes()
    if how == "missing":
        shard.unlink()
    else:
        shard.write_bytes(data[: len(data) // 2] if how == "cut" else data + b"x")
    streams = make_streams(str(tmp_path / "c"), tiny_model, 2)
    steps = walk(streams)
    (entry,) = streams[0].ledger.entries
    assert (entry.shard, entry.window) == ("000000", "")
    used = np.concatenate([row for step in steps for *_, row in rows_of(step)])
    assert (streams[0].corpus.shard_of(used) != 0).all()


def test_a_file_cut_while_it_is_open_is_damage_not_a_crash(corpus, tiny_model, tmp_path):
    shutil.copytree(corpus, tmp_path / "c")
    (stream,) = make_streams(str(tmp_path / "c"), tiny_model)
    stream.corpus.read(0)
    last = int(stream.corpus.first[1]) - 1
    with (tmp_path / "c" / "shards" / "000000.tar").open("r+b") as f:
        f.truncate(int(stream.corpus.index[last]["spikes"]["offset"]) + 10)
    with pytest.raises(ShardCorrupt, match="beyond the end of the shard"):
        stream.corpus.read(last)


@pytest.mark.parametrize("world_size", [1, 4])
def test_damage_ends_the_run_on_every_rank_unless_it_may_be_replaced(
    damaged, tiny_model, world_size
):
    for options, match in (
        ({"on_corrupt": "raise"}, "has crc32"),
        ({"max_quarantined": 0.0}, r"data\.max_quarantined allows 0\.00%"),
    ):
        streams = make_streams(damaged, tiny_model, world_size, **options)
        for rank in run_ranks(streams):
            with pytest.raises(ShardCorrupt, match=match):
                rank.result()


def test_what_goes_wrong_on_one_rank_alone_ends_all_of_them(corpus, tiny_model, monkeypatch):
    streams = make_streams(corpus, tiny_model, 4)

    def full(number):
        raise NoRoom("no room on the disk of rank 2")

    monkeypatch.setattr(streams[2].corpus, "read", full)
    for rank in run_ranks(streams):
        with pytest.raises(RankFailed, match="no room on the disk of rank 2"):
            rank.result()


def test_a_stand_in_comes_from_its_own_block(damaged, tiny_model):
    (stream,) = make_streams(damaged, tiny_model)
    walk([stream])
    (source,) = stream.plan.sources.every
    assert len(source.blocks.rows) == 2
    for epoch in range(20):
        (other,) = stream.ledger.replace(source, epoch, np.array([1]))
        assert other != 1
        assert source.blocks.block_of(other) == source.blocks.block_of(1) == 0

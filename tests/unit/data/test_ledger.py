"""Damaged windows: never read into a step, replaced alike by every rank and after every restart."""

import hashlib
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from ndt3_dist.config import DataConfig
from ndt3_dist.data.order import Place
from ndt3_dist.data.stream import Stream
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.read import Corpus

STEPS = 12


@pytest.fixture
def damaged(corpus, tmp_path) -> str:
    """A copy of the corpus with one flipped bit in the middle of its first shard."""
    shutil.copytree(corpus, tmp_path / "damaged")
    shard = tmp_path / "damaged" / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    opened = Corpus(corpus)
    data[int(opened.index[1]["offsets"][0]) + 200] ^= 4
    shard.write_bytes(data)
    return str(tmp_path / "damaged")


def make_streams(corpus, model, world_size=1, ledger=(), covariate_mask_rate=1.0, **data):
    model = model.model_copy(update={"covariate_mask_rate": covariate_mask_rate})
    options = {"row_tokens": 1024, "block_samples": 16, "on_corrupt": "quarantine"}
    options |= {"max_quarantined": 1.0, **data}
    streams = [
        Stream(Corpus(corpus), DataConfig(**options), model, 0, 8, 1, rank, world_size)
        for rank in range(world_size)
    ]
    for stream in streams:
        stream.ledger.restore(ledger)
    return streams


def run_ranks(streams, steps=STEPS, place=None) -> list[Future]:
    """Each rank's steps, made by a thread. Ranks tell each other what they found."""
    barrier, box = threading.Barrier(len(streams), timeout=60), [[] for _ in streams]

    def run(rank):
        asked = count()

        def share(damage):
            if next(asked) > 10 * steps:  # damage that nothing replaces is met for ever
                barrier.abort()
            box[rank] = damage
            barrier.wait()
            whole = sorted({d for part in box for d in part})
            barrier.wait()
            return whole

        return list(islice(streams[rank].steps(place or Place(), share), steps))

    with ThreadPoolExecutor(len(streams)) as pool:
        return [pool.submit(run, rank) for rank in range(len(streams))]


def walk(streams, steps=STEPS, place=None):
    """Steps of all ranks: [step][rank]."""
    return list(zip(*(r.result() for r in run_ranks(streams, steps, place)), strict=True))


def digest(steps) -> list[str]:
    """Hash of every later step's samples and bytes, over all its ranks."""
    found = []
    for ranks in steps:
        parts = {m: a for step in ranks for m, a in step.batches}
        hashed = hashlib.sha256()
        for m in sorted(parts):
            for name in sorted(parts[m]):
                hashed.update(parts[m][name].tobytes())
        hashed.update(repr([(e, s.tolist()) for e, s in ranks[0].rows]).encode())
        found.append(hashed.hexdigest())
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_any_number_of_ranks_can_go_on_at_any_step(corpus, tiny_model, world_size):
    alone = walk(make_streams(corpus, tiny_model, covariate_mask_rate=0.5))
    for step in (0, 3, 7):
        place = alone[step][0].after
        streams = make_streams(corpus, tiny_model, world_size, covariate_mask_rate=0.5)
        later = walk(streams, STEPS - step - 1, place)
        assert digest(later) == digest(alone[step + 1 :])


@pytest.mark.parametrize("world_size", [2, 8])
def test_ranks_replace_damaged_windows_alike(damaged, corpus, tiny_model, world_size):
    streams = make_streams(damaged, tiny_model)
    alone = walk(streams)
    assert [d.window for d in streams[0].ledger.entries] == [streams[0].corpus.key(1)]
    assert "has crc32" in streams[0].ledger.entries[0].reason
    shared = make_streams(damaged, tiny_model, world_size)
    assert digest(walk(shared)) == digest(alone)
    assert all(s.ledger.state() == streams[0].ledger.state() for s in shared)
    used = {n for step in alone for _, row in step[0].rows for n in row.tolist()}
    assert 1 not in used
    # Everything else keeps its place.
    intact = walk(make_streams(corpus, tiny_model))
    for with_damage, without in zip(alone, intact, strict=True):
        for (_, ours), (_, theirs) in zip(with_damage[0].rows, without[0].rows, strict=True):
            np.testing.assert_array_equal(ours[theirs != 1], theirs[theirs != 1])
            tokens = streams[0].tokens
            assert tokens[ours].sum() <= tokens[theirs].sum()


def test_a_restart_with_the_ledger_repeats_the_stream(damaged, tiny_model):
    streams = make_streams(damaged, tiny_model)
    whole = walk(streams)
    met = next(i for i, s in enumerate(whole) if s[0].after.position > met_at(streams))
    for step in (met - 1, met, STEPS - 4):  # before it was met, just after, and later
        if step < 0:
            continue
        known = streams[0].ledger.state() if step >= met else []
        again = make_streams(damaged, tiny_model, 2, ledger=known)
        assert digest(walk(again, 3, whole[step][0].after)) == digest(whole[step + 1 : step + 4])


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
    used = np.concatenate([row for step in steps for _, row in step[0].rows])
    assert (streams[0].corpus.shard_of[used] != 0).all()


def test_a_file_cut_while_it_is_open_is_damage_not_a_crash(corpus, tiny_model, tmp_path):
    shutil.copytree(corpus, tmp_path / "c")
    (stream,) = make_streams(str(tmp_path / "c"), tiny_model)
    stream.corpus.read(0)
    last = int(np.flatnonzero(stream.corpus.shard_of == 0)[-1])
    with (tmp_path / "c" / "shards" / "000000.tar").open("r+b") as f:
        f.truncate(int(stream.corpus.index[last]["offsets"][0]) + 10)
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

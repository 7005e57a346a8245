"""Checkpoints are complete and verified, or absent; any slicing reads back any range."""

import json
import random
import threading
from pathlib import Path

import pytest
import torch
from saves import SHAPES, full_state, on_all, save, slices_of, writers

from ndt3_dist import storage
from ndt3_dist.checkpoint.export import masters
from ndt3_dist.checkpoint.steps import (
    KINDS,
    Checkpoint,
    newest,
    open_step,
    prune,
    seal,
    step_folder,
    steps_of,
)
from ndt3_dist.checkpoint.writer import MOST_FAILURES
from ndt3_dist.errors import BadInput, CheckpointCorrupt, SaveFailed


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_range_reads_back_whatever_ranks_wrote_it(tmp_path, world_size):
    state = save(tmp_path, 5, world_size)
    checkpoint = open_step(tmp_path, 5)
    draw = random.Random(0)
    for _ in range(50):
        name = draw.choice(list(SHAPES))
        size = len(state[name]["master"])
        start = draw.randrange(size)
        length = draw.randrange(1, size - start + 1)
        for kind, found in checkpoint.read(name, start, length).items():
            assert torch.equal(found, state[name][kind][start : start + length])
    assert torch.equal(checkpoint.master("a.weight"), state["a.weight"]["master"].view(7, 5))


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_detected_named_and_passed_over(tmp_path, seed):
    """A random flip, cut or removal in a random file of the newest step."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    draw = random.Random(seed)
    file = draw.choice(sorted(Path(step_folder(tmp_path, 2)).iterdir()))
    data = bytearray(file.read_bytes())
    kind = draw.choice(["flip", "cut", "remove"])
    if kind == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
    elif kind == "cut":
        file.write_bytes(data[: draw.randrange(len(data))])
    else:
        file.unlink()
    said = []
    assert newest(tmp_path, said.append, intact) == 1
    if kind != "remove" or file.name != "checkpoint.json":  # without it the step never existed
        assert file.name in said[0]
        with pytest.raises(CheckpointCorrupt, match=file.name):
            intact(open_step(tmp_path, 2))


def intact(checkpoint: Checkpoint) -> int:
    checkpoint.verify()
    return checkpoint.meta["step"]


def test_a_step_without_checkpoint_json_does_not_exist(tmp_path):
    save(tmp_path, 3)
    (Path(step_folder(tmp_path, 3)) / "checkpoint.json").unlink()
    assert steps_of(tmp_path) == []
    assert newest(tmp_path, print) is None


def test_saving_a_step_again_replaces_the_remains_of_a_killed_attempt(tmp_path):
    folder = Path(step_folder(tmp_path, 4))
    folder.mkdir(parents=True)
    (folder / "rank00000-of-00009.safetensors").write_bytes(b"torn")
    save(tmp_path, 4)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json",
        "rank00000-of-00001.safetensors",
        "stream.json",
    ]
    open_step(tmp_path, 4)


def test_a_file_name_in_checkpoint_json_cannot_leave_its_folder(tmp_path):
    save(tmp_path, 1)
    path = Path(step_folder(tmp_path, 1)) / "checkpoint.json"
    meta = json.loads(path.read_text())
    meta["shards"]["../../secret"] = {"bytes": 1, "header": [0, ""], "pieces": {}}
    del meta["sha256"]
    (tmp_path / "secret").write_bytes(b"x")
    path.write_text(json.dumps(seal(meta)))
    with pytest.raises(CheckpointCorrupt, match="secret"):
        open_step(tmp_path, 1)


def test_only_the_newest_steps_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    prune(tmp_path, 2)
    assert steps_of(tmp_path) == [3, 4]
    assert sorted(p.name for p in (tmp_path / "steps").iterdir()) == ["00000003", "00000004"]


def test_exporting_a_run_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such run"):
        masters(tmp_path / "nothing", None, torch.float32, print)
    with pytest.raises(CheckpointCorrupt, match="no intact checkpoint"):
        masters(tmp_path, None, torch.float32, print)


def test_what_is_saved_is_the_moment_of_the_call(tmp_path, monkeypatch):
    """Weights that change while they are written do not get into the checkpoint."""
    state, gate = full_state(1), threading.Event()
    write = storage.write_pieces
    monkeypatch.setattr(storage, "write_pieces", lambda *a: gate.wait(20) and write(*a))
    (writer,) = writers(tmp_path)
    expected = {n: {k: t.clone() for k, t in kinds.items()} for n, kinds in state.items()}
    writer.begin(1, slices_of(state, 0, 1), {"parameters": SHAPES}, {})
    assert writer.pending
    assert steps_of(tmp_path) == []
    for kinds in state.values():
        for tensor in kinds.values():
            tensor.zero_()
    gate.set()
    writer.finish()
    checkpoint = open_step(tmp_path, 1)
    for name, kinds in expected.items():
        found = checkpoint.read(name, 0, len(kinds["master"]))
        assert all(torch.equal(found[k], kinds[k]) for k in KINDS)


def test_a_save_that_fails_leaves_nothing_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    ranks, write = writers(tmp_path, 3), storage.write_pieces
    save(tmp_path, 1, ranks=ranks)

    def full(path, data):
        if "rank00001" in path:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(storage, "write_pieces", full)

    def begin(step):
        state = full_state(step)
        on_all(
            ranks,
            lambda w: w.begin(step, slices_of(state, w.rank, 3), {"parameters": SHAPES}, {}),
        )

    begin(2)
    begin(3)  # finds that step 2 has failed
    assert "rank 1: [Errno 28] No space left on device; the run goes on" in capsys.readouterr().err
    assert steps_of(tmp_path) == [1]
    assert not Path(step_folder(tmp_path, 2)).exists()
    monkeypatch.setattr(storage, "write_pieces", write)
    for writer in ranks:  # step 3 may have got through before that
        writer.under_way.thread.join()
    with pytest.raises(SaveFailed, match="last step"):
        on_all(ranks, lambda w: w.finish())
    save(tmp_path, 4, ranks=ranks)
    assert steps_of(tmp_path) == [1, 4]
    assert ranks[0].failed == 0


def test_saves_that_fail_again_and_again_end_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_pieces", full)
    (writer,) = writers(tmp_path, background=False)
    state = full_state(1)
    for step in range(1, MOST_FAILURES):
        writer.begin(step, slices_of(state, 0, 1), {"parameters": SHAPES}, {})
    with pytest.raises(SaveFailed, match=f"{MOST_FAILURES} saves in a row"):
        writer.begin(MOST_FAILURES, slices_of(state, 0, 1), {"parameters": SHAPES}, {})


def test_a_flip_anywhere_in_what_describes_a_step_is_seen(tmp_path):
    """Also where it changes a number that nothing else tells, as AdamW's step."""
    save(tmp_path, 7)
    path = Path(step_folder(tmp_path, 7)) / "checkpoint.json"
    path.write_text(path.read_text().replace('"adam_step": 7', '"adam_step": 9'))
    with pytest.raises(CheckpointCorrupt, match="its own hash"):
        open_step(tmp_path, 7)


def test_a_step_of_another_version_says_so(tmp_path):
    save(tmp_path, 7)
    path = Path(step_folder(tmp_path, 7)) / "checkpoint.json"
    meta = storage.read_json(path)
    path.write_text(json.dumps({**meta, "version": 1}))
    with pytest.raises(CheckpointCorrupt, match="of version 1, not 3"):
        open_step(tmp_path, 7)


def test_only_what_is_read_is_hashed_and_once(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    checkpoint, hashed = open_step(tmp_path, 1), []
    fast_hash = storage.fast_hash
    monkeypatch.setattr(storage, "fast_hash", lambda d: hashed.append(len(d)) or fast_hash(d))
    checkpoint.read("c", 0, 32)  # what rank 0 of 2 owns
    assert hashed == [4 * 32] * len(KINDS)


def test_a_step_that_is_deleted_ceases_to_exist_first(tmp_path, monkeypatch):
    save(tmp_path, 1)
    removed, remove = [], storage.remove
    monkeypatch.setattr(storage, "remove", lambda p: removed.append(p) or remove(p))
    prune(tmp_path, 1)
    save(tmp_path, 2)
    prune(tmp_path, 1)
    folder = step_folder(tmp_path, 1)
    assert removed[-2:] == [f"{folder}/checkpoint.json", folder]
    assert not Path(folder).exists()

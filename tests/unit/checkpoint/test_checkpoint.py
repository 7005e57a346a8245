"""Checkpoints are complete and verified, or absent; any slicing reads back any range."""

import json
import random

import pytest
import torch

from ndt3_dist.checkpoint.export import open_run
from ndt3_dist.checkpoint.format import (
    KINDS,
    open_newest,
    open_step,
    prune,
    save_checkpoint,
    step_folder,
    steps_of,
)
from ndt3_dist.errors import BadInput, CheckpointCorrupt

SHAPES = {"a.weight": [7, 5], "b": [1], "c": [64]}


def full_state(step):
    torch.manual_seed(step)
    return {
        name: {kind: torch.randn(torch.Size(shape).numel()) for kind in KINDS}
        for name, shape in SHAPES.items()
    }


def save(run, step, world_size=1):
    """Save as `world_size` ranks would, one after the other: each owns a run of every parameter."""
    state, entries = full_state(step), []

    for rank in reversed(range(world_size)):  # rank 0 last: it writes checkpoint.json
        slices = []
        for name, kinds in state.items():
            size = len(kinds["master"])
            low, high = size * rank // world_size, size * (rank + 1) // world_size
            if high > low:
                slices.append((name, low, {k: t[low:high] for k, t in kinds.items()}))

        def gather(value, rank=rank):
            if isinstance(value, dict):
                entries.append(value)
                return entries
            return [None] * world_size

        describe = {"parameters": SHAPES, "config": {}, "adam_step": step}
        if rank == 0 and world_size > 1:
            # What rank 0 would do before the others write; here they have written already.
            import ndt3_dist.checkpoint.format as format_

            keep, format_.delete_step = format_.delete_step, lambda *_: None
            try:
                save_checkpoint(run, step, slices, describe, {"place": {}}, rank, gather)
            finally:
                format_.delete_step = keep
        else:
            save_checkpoint(run, step, slices, describe, {"place": {}}, rank, gather)
    return state


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


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_detected_named_and_passed_over(tmp_path, seed):
    """A random flip, cut or removal in a random file of the newest step."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    draw = random.Random(seed)
    file = draw.choice(sorted(step_folder(tmp_path, 2).iterdir()))
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
    found = open_newest(tmp_path, said.append)
    assert found is not None
    if file.name == "checkpoint.json" and kind == "flip" and found.meta["step"] == 2:
        # A flip inside a value that only describes; everything that decides still verifies.
        assert json.loads(bytes(data))["files"] == found.meta["files"]
        return
    assert found.meta["step"] == 1
    if kind != "remove" or file.name != "checkpoint.json":  # without it the step never existed
        assert file.name in said[0]
        with pytest.raises(CheckpointCorrupt, match=file.name):
            open_step(tmp_path, 2)


def test_a_step_without_checkpoint_json_does_not_exist(tmp_path):
    save(tmp_path, 3)
    (step_folder(tmp_path, 3) / "checkpoint.json").unlink()
    assert steps_of(tmp_path) == []
    assert open_newest(tmp_path, print) is None


def test_saving_a_step_again_replaces_the_remains_of_a_killed_attempt(tmp_path):
    folder = step_folder(tmp_path, 4)
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
    path = step_folder(tmp_path, 1) / "checkpoint.json"
    meta = json.loads(path.read_text())
    meta["files"]["../../secret"] = {"bytes": 1, "sha256": "0" * 64}
    (tmp_path / "secret").write_bytes(b"x")
    path.write_text(json.dumps(meta))
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
        open_run(tmp_path / "nothing", None, print)
    with pytest.raises(CheckpointCorrupt, match="no intact checkpoint"):
        open_run(tmp_path, None, print)

"""Processes killed while they save, and files damaged afterwards: only whole steps are read."""

import os
import shutil
import signal
import time

import torch
from saves import full_state, save, writers

from ndt3_dist.checkpoint.steps import KINDS, Checkpoint, newest, prune, steps_of
from ndt3_dist.data.order import generator

TIMES = int(os.environ.get("NDT3_KILLS", "200"))


def loaded(checkpoint: Checkpoint) -> int:
    """The step of a checkpoint whose every slice is that step's; read as a resume does."""
    step, world = checkpoint.meta["step"], 3  # another number of ranks than wrote it
    state = full_state(step)
    for name, kinds in state.items():
        size = len(kinds["master"])
        for rank in range(world):
            low, high = size * rank // world, size * (rank + 1) // world
            if high > low:
                found = checkpoint.read(name, low, high - low)
                for kind in KINDS:
                    assert torch.equal(found[kind], kinds[kind][low:high])
    assert checkpoint.meta["adam_step"] == step
    return step


def save_for_ever(run, step: int) -> None:
    """What a training does: a step and the next, the last two are kept."""
    torch.set_num_threads(1)
    ranks = writers(run, 2)
    while True:
        step += 1
        save(run, step, ranks=ranks)
        prune(run, 2)


def test_a_process_killed_while_it_saves_leaves_whole_steps_alone(tmp_path):
    draw, reached, unfinished = generator("killed saves"), 0, 0
    for kill in range(TIMES):
        child = os.fork()
        if not child:
            try:
                save_for_ever(tmp_path, reached)
            finally:
                os._exit(1)
        time.sleep(float(draw.uniform(0.002, 0.06)))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, f"it ended by itself before kill {kill}"
        said: list[str] = []
        found = newest(tmp_path, said.append, loaded) or 0
        assert not said  # nothing that claims to be a checkpoint is none
        assert found >= reached
        claimed = len(steps_of(tmp_path))
        unfinished += len(list((tmp_path / "steps").glob("*"))) > claimed
        reached = found
    assert reached > TIMES / 10
    assert unfinished > TIMES / 10  # kills did fall into saves


def test_damage_of_any_file_is_never_loaded(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path / "whole", step, 2)
    draw = generator("damage")
    fallen_back = 0
    for trial in range(TIMES):
        run = tmp_path / str(trial)
        shutil.copytree(tmp_path / "whole", run)
        files = sorted(f for f in (run / "steps").rglob("*") if f.is_file())
        damaged = set()
        for file in draw.permutation(len(files))[: int(draw.integers(1, 4))]:
            path = files[int(file)]
            data, kind = bytearray(path.read_bytes()), int(draw.integers(4))
            at, step = int(draw.integers(len(data))), int(path.parent.name)
            if kind == 0:
                # Where a slice lies is in checkpoint.json; nobody looks at a file's own header.
                header = 8 + int.from_bytes(data[:8], "little")
                if path.suffix != ".safetensors" or at >= header:
                    damaged.add(step)
                data[at] ^= 1 << int(draw.integers(8))
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data += b"more"
            if kind:
                damaged.add(step)
            path.unlink() if kind == 3 else path.write_bytes(data)
        said: list[str] = []
        whole = {1, 2, 3} - damaged
        assert newest(run, said.append, loaded) == max(whole, default=None)
        fallen_back += bool(said)
        shutil.rmtree(run)
    assert fallen_back > TIMES / 10

"""Checkpoints, version 3: complete and verified, or absent.

    RUN/steps/00001200/rank00000-of-00002.safetensors ...  stream.json  checkpoint.json

A run is a folder on a disk or in a store.

Each rank writes slices of the fp32 masters and AdamW's moments, named `kind|parameter|start`. A
step exists if and only if its checkpoint.json, written last, holds the hash of itself; it has
that of every slice (xxh3-128), so that whoever reads some of them verifies those, each byte once.
It is the first file removed when a step is deleted. Nothing is pickled.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, CheckpointCorrupt

if TYPE_CHECKING:  # who only lists steps does not wait for torch
    import torch

FORMAT = "ndt3_dist.checkpoint"
VERSION = 3
META = "checkpoint.json"
"""Last written, first removed: a step exists while it does."""
KINDS = ("master", "exp_avg", "exp_avg_sq")
"""The fp32 weights and AdamW's two moments."""
PINNED = "pinned"
"""A file of this name in a step's folder keeps the step."""

T = TypeVar("T")


def step_folder(run: str | Path, step: int) -> str:
    return storage.join(run, "steps", f"{step:08d}")


def steps_of(run: str | Path) -> list[int]:
    """Steps that claim a checkpoint, oldest first."""
    folder = storage.join(run, "steps")
    names = [n for n in storage.list_names(folder) if n.isdigit()]
    return [int(n) for n in names if storage.exists(storage.join(folder, n, META))]


def seal(meta: dict) -> dict:
    """With the hash of its own content."""
    return {**meta, "sha256": storage.sha256_bytes(storage.canonical_json(meta))}


def delete_step(run: str | Path, step: int) -> None:
    """Remove a step, its checkpoint.json first: what is half removed does not exist."""
    folder = step_folder(run, step)
    storage.remove(storage.join(folder, META))
    storage.remove(folder)


def set_aside(run: str | Path, step: int) -> None:
    """Make a step none, without deleting it: its folder is NNNNNNNN.left."""
    folder = step_folder(run, step)
    aside = f"{folder}.left"
    storage.remove(aside)
    storage.move_folder(folder, aside, META)
    log.warn(f"step {step} is newer than the one that the run goes on from: now {aside}")


def remove_remnants(run: str | Path) -> None:
    """Remove what saves left that never came to their end."""
    folder, whole = storage.join(run, "steps"), steps_of(run)
    for name in storage.list_names(folder):
        if name.isdigit() and int(name) not in whole:
            storage.remove(storage.join(folder, name))


def prune(run: str | Path, keep_last: int, keep_every: int = 0, best: int = 0) -> None:
    """Delete steps but the newest `keep_last`, multiples of `keep_every`, the best and pinned."""
    for step in steps_of(run)[:-keep_last]:
        if keep_every and step % keep_every == 0:
            continue
        if step != best and not storage.exists(storage.join(step_folder(run, step), PINNED)):
            delete_step(run, step)


@dataclass
class Checkpoint:
    """A step whose checkpoint.json is intact and whose files are there.

    Attributes:
        folder: Where it lies.
        meta: checkpoint.json.
        stream: stream.json.
    """

    folder: str
    meta: dict
    stream: dict

    def __post_init__(self):
        # parameter -> [(start, length, file)], in order of start.
        self.pieces: dict[str, list[tuple[int, int, str]]] = {}
        for file, shard in self.meta["shards"].items():
            for key, (_, length, _) in shard["pieces"].items():
                kind, name, start = key.split("|")
                if kind == "master":
                    self.pieces.setdefault(name, []).append((int(start), length, file))
        for name, shape in self.meta["parameters"].items():
            pieces, size, position = sorted(self.pieces.get(name, [])), math.prod(shape), 0
            for start, length, _ in pieces:
                if start != position:
                    break
                position += length
            if position != size:
                raise CheckpointCorrupt(
                    f"{self.folder}: {name} is covered up to element {position} of {size}"
                )
            self.pieces[name] = pieces

    def read(self, name: str, start: int, length: int, kinds=KINDS) -> "dict[str, torch.Tensor]":
        """A flat range of a parameter, whatever ranks wrote it; float32 by kind.

        Raises:
            CheckpointCorrupt: A slice that it needs does not have its hash; names the file.
        """
        import torch

        parts: dict[str, list[torch.Tensor]] = {kind: [] for kind in kinds}
        for first, count, file in self.pieces[name]:
            low, high = max(start, first), min(start + length, first + count)
            if low < high:
                for kind in kinds:
                    piece = self._piece(file, f"{kind}|{name}|{first}")
                    parts[kind].append(piece[low - first : high - first])
        return {kind: p[0] if len(p) == 1 else torch.cat(p) for kind, p in parts.items()}

    def master(self, name: str) -> "torch.Tensor":
        """The whole fp32 weight of a parameter in its own shape."""
        shape = self.meta["parameters"][name]
        return self.read(name, 0, math.prod(shape), ("master",))["master"].view(shape)

    def verify(self) -> None:
        """Read and hash everything. Raises CheckpointCorrupt."""
        total = sum(shard["bytes"] for shard in self.meta["shards"].values())
        with log.counting(f"verifying {self.folder}", total, unit="B") as step:
            for file, shard in self.meta["shards"].items():
                length, expected = shard["header"]
                if storage.fast_hash(self._bytes(file, 0, length)) != expected:
                    raise CheckpointCorrupt(
                        f"{storage.join(self.folder, file)}: its header does not have its hash"
                    )
                step.add(length)
                for key, (_, length, _) in shard["pieces"].items():
                    self._piece(file, key)
                    step.add(4 * length)

    def _piece(self, file: str, key: str) -> "torch.Tensor":
        import torch

        offset, length, expected = self.meta["shards"][file]["pieces"][key]
        data = self._bytes(file, offset, 4 * length)
        if storage.fast_hash(data) != expected:
            path = storage.join(self.folder, file)
            raise CheckpointCorrupt(f"{path}: {key} does not have its hash")
        return torch.from_numpy(data.view(np.float32))

    def _bytes(self, file: str, offset: int, size: int) -> np.ndarray:
        path = storage.join(self.folder, file)
        try:
            data = storage.read_range(path, offset, size)
        except PermissionError:
            raise  # no damage: to fall back to an older step would lose work
        except OSError as e:
            raise CheckpointCorrupt(f"{path}: cannot be read ({e.strerror or e})") from e
        if len(data) != size:
            raise CheckpointCorrupt(f"{path}: ends at byte {offset + len(data)}")
        return data


def open_step(run: str | Path, step: int) -> Checkpoint:
    """Open one step: what describes it is verified now, slices when they are read.

    Raises:
        CheckpointCorrupt: A file is missing or differs; names the file and how.
    """
    folder = step_folder(run, step)
    path, state = storage.join(folder, META), storage.join(folder, "stream.json")
    there = storage.sizes(folder)
    if META not in there:
        raise CheckpointCorrupt(f"{folder}: no checkpoint.json, so no checkpoint")
    try:
        meta = storage.read_json(path)
        if meta["format"] != FORMAT or meta["step"] != step:
            raise CheckpointCorrupt(f"{path}: not step {step} of {FORMAT}")
        if meta["version"] != VERSION:
            raise CheckpointCorrupt(
                f"{path}: of version {meta['version']}, not {VERSION}; export its weights with "
                "the program that wrote it, and start a new run from them with --init"
            )
        if seal({k: v for k, v in meta.items() if k != "sha256"}) != meta:
            raise CheckpointCorrupt(f"{path}: it does not have its own hash")
        for name, shard in meta["shards"].items():
            file = storage.join(folder, name)
            if there.get(name) is None:
                raise CheckpointCorrupt(f"{file}: missing")
            if there[name] != shard["bytes"]:
                raise CheckpointCorrupt(
                    f"{file}: {there[name]} bytes, checkpoint.json has {shard['bytes']}"
                )
        if storage.sha256_file(state) != meta["stream"]:
            raise CheckpointCorrupt(f"{state}: its sha256 is not the one in checkpoint.json")
        return Checkpoint(folder, meta, storage.read_json(state))
    except FileNotFoundError as e:
        raise CheckpointCorrupt(f"{e.filename}: missing") from e
    except (KeyError, TypeError, AttributeError, ValueError, BadInput) as e:
        raise CheckpointCorrupt(f"{path}: not a checkpoint of version {VERSION} ({e!r})") from e


def newest(
    run: str | Path,
    say: Callable[[str], None],
    use: Callable[[Checkpoint], T] = lambda checkpoint: checkpoint,
    before: int | None = None,
) -> T | None:
    """What `use` makes of the newest step that it finds intact; None where there is none.

    Args:
        say: Told why newer steps are passed over.
        use: May raise CheckpointCorrupt.
        before: Only steps before this one.
    """
    for step in reversed(steps_of(run)):
        if before is not None and step >= before:
            continue
        try:
            return use(open_step(run, step))
        except CheckpointCorrupt as e:
            say(f"step {step} is damaged, falling back: {e}")
    return None

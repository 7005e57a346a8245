"""Checkpoints, version 1: complete and verified, or absent.

    RUN/steps/00001200/rank00000-of-00002.safetensors ...  stream.json  checkpoint.json

Each rank writes slices of the fp32 masters and AdamW's moments, named `kind|parameter|start`. A
step exists if and only if its checkpoint.json, written last from the sizes and hashes that every
rank reported, verifies; it is the first file removed when a step is deleted. Nothing is pickled.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ndt3_dist import storage
from ndt3_dist.errors import CheckpointCorrupt

FORMAT = "ndt3_dist.checkpoint"
VERSION = 1
KINDS = ("master", "exp_avg", "exp_avg_sq")
"""The fp32 weights and AdamW's two moments."""

Gather = Callable[[Any], list[Any]]
"""Collect one object of every rank, in order of rank, on every rank."""


def step_folder(run: str | Path, step: int) -> Path:
    return Path(run) / "steps" / f"{step:08d}"


def steps_of(run: str | Path) -> list[int]:
    """Steps that claim a checkpoint, oldest first."""
    folder = Path(run) / "steps"
    names = [n for n in storage.list_names(folder) if n.isdigit()]
    return [int(n) for n in names if (folder / n / "checkpoint.json").is_file()]


def save_checkpoint(
    run: str | Path,
    step: int,
    slices: Iterable[tuple[str, int, dict[str, torch.Tensor]]],
    describe: dict,
    stream: dict,
    rank: int,
    gather: Gather,
) -> None:
    """Write one step; every rank calls it.

    Args:
        run: Folder of the run.
        step: Optimiser steps done.
        slices: This rank's (parameter, first element, tensors by kind).
        describe: What checkpoint.json says besides its files (the same on every rank).
        stream: Content of stream.json.
        rank: Of this process.
        gather: Of the job.
    """
    folder = step_folder(run, step)
    if rank == 0:
        delete_step(run, step)
    gather(None)  # nobody writes before the remains of an earlier attempt are gone
    tensors = {
        f"{kind}|{name}|{start}": tensor.detach().cpu().contiguous()
        for name, start, kinds in slices
        for kind, tensor in kinds.items()
    }
    # A rank may own nothing (more ranks than elements); its file is then empty but there.
    world_size = len(gather(None))
    name = f"rank{rank:05d}-of-{world_size:05d}.safetensors"
    written = storage.write_pieces(folder / name, safetensors_pieces(tensors))
    entries = gather({name: written})
    if rank == 0:
        state = storage.canonical_json(stream) + b"\n"
        storage.write_bytes(folder / "stream.json", state)
        files = {k: v for entry in entries for k, v in entry.items()}
        files["stream.json"] = {"bytes": len(state), "sha256": storage.sha256_bytes(state)}
        storage.write_json(
            folder / "checkpoint.json",
            {"format": FORMAT, "version": VERSION, "step": step, **describe, "files": files},
        )
        storage.write_bytes(Path(run) / "latest", f"{step:08d}\n".encode())
    gather(None)


def safetensors_pieces(tensors: dict[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file of float32 tensors, piece by piece.

    The library's own `save` holds the whole file twice, which is 8 GB at 350M parameters.
    Source: the format's specification (8 bytes of header length, JSON header, tensors).
    """
    header, position = {}, 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, name
        end = position + 4 * tensor.numel()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    yield len(text).to_bytes(8, "little")
    yield text
    for tensor in tensors.values():
        yield tensor.numpy().data.cast("B")


def delete_step(run: str | Path, step: int) -> None:
    """Remove a step, its checkpoint.json first: what is half removed does not exist."""
    folder = step_folder(run, step)
    storage.remove(folder / "checkpoint.json")
    storage.remove(folder)


def prune(run: str | Path, keep_last: int) -> None:
    """Delete all but the newest `keep_last` steps."""
    for step in steps_of(run)[:-keep_last]:
        delete_step(run, step)


@dataclass
class Checkpoint:
    """A verified step.

    Attributes:
        folder: Where it lies.
        meta: checkpoint.json.
        stream: stream.json.
    """

    folder: Path
    meta: dict
    stream: dict

    def __post_init__(self):
        # parameter -> [(start, length, file)], in order of start.
        self.pieces: dict[str, list[tuple[int, int, str]]] = {}
        self._files = {}
        for file in sorted(f for f in self.meta["files"] if f.endswith(".safetensors")):
            opened = safe_open(str(self.folder / file), framework="pt")
            self._files[file] = opened
            for key in opened.keys():  # noqa: SIM118 - not a dict
                kind, name, start = key.split("|")
                if kind == "master":
                    length = opened.get_slice(key).get_shape()[0]
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

    def read(self, name: str, start: int, length: int, kinds=KINDS) -> dict[str, torch.Tensor]:
        """A flat range of a parameter, whatever ranks wrote it; float32 by kind."""
        parts: dict[str, list[torch.Tensor]] = {kind: [] for kind in kinds}
        for first, count, file in self.pieces[name]:
            low, high = max(start, first), min(start + length, first + count)
            if low < high:
                for kind in kinds:
                    piece = self._files[file].get_slice(f"{kind}|{name}|{first}")
                    parts[kind].append(piece[low - first : high - first])
        return {kind: torch.cat(p) for kind, p in parts.items()}

    def master(self, name: str) -> torch.Tensor:
        """The whole fp32 weight of a parameter in its own shape."""
        shape = self.meta["parameters"][name]
        return self.read(name, 0, math.prod(shape), ("master",))["master"].view(shape)


def open_step(run: str | Path, step: int) -> Checkpoint:
    """Verify one step and open it.

    Raises:
        CheckpointCorrupt: A file is missing or differs; names the file and how.
    """
    folder = step_folder(run, step)
    path = folder / "checkpoint.json"
    if not path.is_file():
        raise CheckpointCorrupt(f"{folder}: no checkpoint.json, so no checkpoint")
    try:
        meta = storage.read_json(path)
        if meta["format"] != FORMAT or meta["version"] != VERSION or meta["step"] != step:
            raise CheckpointCorrupt(f"{path}: not step {step} of {FORMAT} version {VERSION}")
        for name, entry in meta["files"].items():
            file = folder / name
            if file.parent != folder or not file.is_file():
                raise CheckpointCorrupt(f"{file}: missing")
            if storage.size(file) != entry["bytes"]:
                raise CheckpointCorrupt(
                    f"{file}: {storage.size(file)} bytes, checkpoint.json has {entry['bytes']}"
                )
            if storage.sha256_file(file) != entry["sha256"]:
                raise CheckpointCorrupt(f"{file}: its sha256 is not the one in checkpoint.json")
        return Checkpoint(folder, meta, storage.read_json(folder / "stream.json"))
    except (KeyError, TypeError, AttributeError, ValueError, struct.error) as e:
        raise CheckpointCorrupt(f"{path}: not a checkpoint of version {VERSION} ({e!r})") from e


def open_newest(run: str | Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact step; says why newer ones were passed over. None where there is none."""
    for step in reversed(steps_of(run)):
        try:
            return open_step(run, step)
        except CheckpointCorrupt as e:
            say(f"step {step} is damaged, falling back: {e}")
    return None

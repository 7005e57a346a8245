"""Writing checkpoints: each rank its own slices, in the background, while training goes on.

A save begins with a copy of the slices in memory. When every rank has written its own, rank 0
commits the step by writing checkpoint.json. One save is under way at most; what a failed one leaves
is removed, and the run goes on with the checkpoints before it.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ndt3_dist import log, storage
from ndt3_dist.checkpoint.steps import FORMAT, META, VERSION, delete_step, seal, step_folder
from ndt3_dist.errors import Ndt3DistError, SaveFailed

Gather = Callable[[Any], list[Any]]
"""Collect one object of every rank, in order of rank, on every rank."""
Slices = Iterable[tuple[str, int, dict[str, torch.Tensor]]]
"""Parameter, first flat element, and the slice of each kind."""
MOST_FAILURES = 3
"""Saves in a row that may fail before the run ends."""


@dataclass
class Save:
    """A save under way.

    Attributes:
        step: Optimiser steps done.
        tensors: This rank's slices by key.
        describe: What checkpoint.json says besides its files.
        stream: Content of stream.json.
        began: When.
        entry: What this rank wrote; empty until it has.
        problem: Why it could not.
        thread: That writes.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    describe: dict
    stream: dict
    began: float = field(default_factory=time.perf_counter)
    entry: dict = field(default_factory=dict)
    problem: str = ""
    thread: threading.Thread | None = None


class Writer:
    """Saves of one rank. All ranks call the same methods at the same steps.

    Attributes:
        under_way: The save that is being written, or waits to be committed.
        written: Whether all ranks have said that theirs is written.
        before_commit: Called on rank 0 before a step exists, for what must be there with it.
        moved: Called for each tensor that is written, by the thread that writes.
    """

    def __init__(
        self, run: str | Path, rank: int, world_size: int, gather: Gather, background=True
    ):
        """
        Args:
            background: Else `begin` returns when the step is there.
        """
        self.run, self.rank, self.world_size, self.gather = run, rank, world_size, gather
        self.background, self.failed = background, 0
        self.under_way: Save | None = None
        self.written = False
        self.before_commit: Callable[[], None] = lambda: None
        self.moved: Callable[[], None] = lambda: None

    @property
    def pending(self) -> bool:
        """Whether this rank is still writing."""
        thread = self.under_way and self.under_way.thread
        return bool(thread and thread.is_alive())

    def begin(self, step: int, slices: Slices, describe: dict, stream: dict) -> None:
        """Start to write a step.

        Args:
            step: Optimiser steps done.
            slices: This rank's.
            describe: What checkpoint.json says besides its files (the same on every rank).
            stream: Content of stream.json.
        Raises:
            SaveFailed: One save too many has failed.
        """
        self.finish(last=False)
        self.clear(step)
        tensors = {
            f"{kind}|{name}|{start}": copied(tensor) if self.background else on_host(tensor)
            for name, start, kinds in slices
            for kind, tensor in kinds.items()
        }
        self.under_way = save = Save(step, tensors, describe, stream)
        save.thread = threading.Thread(target=self._write, args=(save,), daemon=True)
        save.thread.start()
        if not self.background:
            self.finish(last=False)

    def clear(self, step: int) -> None:
        """Remove the remains of an earlier attempt, before anybody writes."""
        if self.rank == 0:
            with contextlib.suppress(OSError, Ndt3DistError):
                delete_step(self.run, step)
        self.gather(None)

    def commit(self) -> None:
        """Make the step exist; called when no rank is pending."""
        save, self.under_way, self.written = self.under_way, None, False
        if not save:
            return
        entries = self.gather((save.entry, save.problem))
        problems = [f"rank {r}: {problem}" for r, (_, problem) in enumerate(entries) if problem]
        if self.rank == 0 and not problems:
            try:
                self.before_commit()
                self._commit(save, {k: v for entry, _ in entries for k, v in entry.items()})
            except (OSError, Ndt3DistError) as e:
                problems = [str(e)]
        problems = self.gather(problems)[0]
        if not problems:
            self.failed = 0
            size = sum(shard["bytes"] for entry, _ in entries for shard in entry.values())
            took = time.perf_counter() - save.began
            log.say(f"step {save.step} saved: {size / 1e6:.0f} MB in {took:.1f} s")
            return
        self.failed += 1
        if self.rank == 0:
            # What is left without checkpoint.json is no step.
            with contextlib.suppress(OSError, Ndt3DistError):
                delete_step(self.run, save.step)
        why = f"{step_folder(self.run, save.step)} could not be written: {problems[0]}"
        if self.failed >= MOST_FAILURES:
            raise SaveFailed(f"{why}; {self.failed} saves in a row have failed")
        log.warn(f"{why}; the run goes on, and earlier checkpoints are kept")

    def join(self) -> None:
        """Wait until this rank has written the save under way."""
        if self.under_way and self.under_way.thread:
            with log.waiting(f"writing step {self.under_way.step}"):
                self.under_way.thread.join()

    def finish(self, last: bool = True) -> None:
        """Wait for the save under way. Raises SaveFailed where it was the last and has failed."""
        self.join()
        self.commit()
        if last and self.failed:
            raise SaveFailed(f"{self.run}: the last step could not be saved (see the warning)")

    def _write(self, save: Save) -> None:
        # A rank may own nothing (more ranks than elements); its file is then empty but there.
        name = f"rank{self.rank:05d}-of-{self.world_size:05d}.safetensors"
        try:
            path = storage.join(step_folder(self.run, save.step), name)
            header, pieces = safetensors_header(save.tensors)
            size = storage.write_pieces(
                path, lambda: chain([header], with_hashes(save.tensors, pieces, self.moved))
            )
            save.entry = {
                name: {
                    "bytes": size,
                    "header": [len(header), storage.fast_hash(header)],
                    "pieces": pieces,
                }
            }
        except Exception as e:  # told to all ranks; the run decides
            save.problem = str(e) or type(e).__name__
        save.tensors = {}

    def _commit(self, save: Save, shards: dict) -> None:
        folder = step_folder(self.run, save.step)
        state = storage.canonical_json(save.stream) + b"\n"
        storage.write_bytes(storage.join(folder, "stream.json"), state)
        meta = {"format": FORMAT, "version": VERSION, "step": save.step, **save.describe}
        meta |= {"stream": storage.sha256_bytes(state), "shards": shards}
        storage.write_json(storage.join(folder, META), seal(meta))
        with contextlib.suppress(OSError, Ndt3DistError):  # a hint; the step is there without
            storage.write_bytes(storage.join(self.run, "latest"), f"{save.step:08d}\n".encode())


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """In memory that training does not write to."""
    held = on_host(tensor)
    return held.clone() if held.data_ptr() == tensor.data_ptr() else held


def safetensors_header(tensors: dict[str, torch.Tensor]) -> tuple[bytes, dict[str, list]]:
    """The head of a safetensors file of float32 tensors, and where each tensor lies in the file.

    The library's own `save` holds the whole file twice, which is 8 GB at 350M parameters.
    Source: the format's specification (8 bytes of header length, JSON header, tensors).

    Returns:
        The bytes, and key -> [first byte, elements].
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
    data = len(text).to_bytes(8, "little") + text
    pieces = {k: [len(data) + v["data_offsets"][0], *v["shape"]] for k, v in header.items()}
    return data, pieces


def with_hashes(
    tensors: dict[str, torch.Tensor], pieces: dict[str, list], moved: Callable[[], None]
) -> Iterator[memoryview]:
    """The bytes of each tensor; its hash is added to its entry of `pieces` on the way."""
    for key, tensor in tensors.items():
        moved()
        data = tensor.numpy().data.cast("B")
        pieces[key][2:] = [storage.fast_hash(data)]
        yield data

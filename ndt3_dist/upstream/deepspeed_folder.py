"""Checkpoints that Lightning writes with its DeepSpeed strategy: a folder, read as its file is.

    X.ckpt/latest   X.ckpt/checkpoint/mp_rank_00_model_states.pt
                    X.ckpt/checkpoint/[bf16_]zero_pp_rank_N_mp_rank_00_optim_states.pt

The first file holds settings, names and 16-bit weights, the others each rank's part of the fp32
masters, which are taken instead. ZeRO-3 has one of the first kind a rank, too. All are opened as
`lightning` opens one; an incomplete folder is refused.

Source: deepspeed.runtime.engine of DeepSpeed 0.19.8, for names and keys.
"""

import re
from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import torch

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, CheckpointCorrupt, Unsupported
from ndt3_dist.upstream.lightning import LightningFile, Storage, View
from ndt3_dist.upstream.pickles import brief
from ndt3_dist.upstream.zero_shards import (
    CUT_EACH,
    END_TO_END,
    Merged,
    cut_each,
    end_to_end,
    frozen,
    is_shapes,
)

MODEL = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{2,3})_model_states\.pt")
SHARD = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{2,3})_optim_states\.pt")
WRAPPERS = "_forward_module.", "module."
"""What Lightning's versions put before every name."""
FIRST_MERGED = 10**9
"""Number of the first storage that lies over several files; those of a file are smaller."""
KINDS = MODEL, SHARD
MOST_RANKS = 1 << 16
AGAIN = "copy the whole folder again from where it was written"


def open_checkpoint(path: str | Path) -> LightningFile:
    """A checkpoint of upstream's trainer, a file or a folder."""
    is_folder = not storage.is_remote(path) and Path(path).is_dir()
    return DeepSpeedFolder(path) if is_folder else LightningFile(path)


class DeepSpeedFolder(LightningFile):
    """A folder opened for reading; `content` is what a file of Lightning's would hold.

    Raises:
        BadInput: It is no such folder.
        CheckpointCorrupt: It is incomplete or damaged; names the files.
        Unsupported: A model whose layers are spread over ranks.
    """

    def __init__(self, path: str | Path):
        folder = find_tag(Path(path))
        models, shards = find_files(Path(path), folder)
        super().__init__(models[0])
        self.origin = Path(path)
        self.files = [*models, *shards]
        self.merged: dict[str, Callable[[], torch.Tensor]] = {}
        self.others = ExitStack()
        try:
            state = self._state_dict(models, shards)
        except BaseException:
            self.__exit__()
            raise
        while any(all(k.startswith(w) for k in state) and state for w in WRAPPERS):
            state = {key.partition(".")[2]: value for key, value in state.items()}
        step = self.content.get("global_steps")  # DeepSpeed's own name of it
        self.content = {"global_step": step, **self.content, "state_dict": state}

    def __exit__(self, *_: Any) -> None:
        self.others.close()
        super().__exit__()

    def sha256(self) -> str:
        """Hash of the hashes of all files that are read."""
        hashes = {file.name: storage.sha256_file(file) for file in self.files}
        return storage.sha256_bytes(storage.canonical_json(hashes))

    def elements(self, held: Storage) -> torch.Tensor:
        merge = self.merged.get(held.key)
        return merge() if merge else super().elements(held)

    def _state_dict(self, models: list[Path], shards: list[Path]) -> dict:
        """Entries of the model, with the fp32 masters in place of their 16-bit copies."""
        module, groups = self.content.get("module"), self.content.get("param_shapes")
        if type(module) is not dict or any(type(key) is not str for key in module):
            raise self.corrupt("no state dict of a module in it")
        if groups is None and not shards:  # without ZeRO the weights are those of the module
            return module
        if type(groups) is not list or not all(map(is_shapes, groups)):
            raise self.corrupt("no shapes of its parameters in it")
        self._check_ranks("optim_states.pt", shards)
        opened = [self.others.enter_context(LightningFile(shard)) for shard in shards]
        states = [(file, file.content.get("optimizer_state_dict")) for file in opened]
        ranks = [(file, state) for file, state in states if type(state) is dict]
        if len(ranks) == len(states) and all(END_TO_END in state for _, state in ranks):
            merged = end_to_end(groups, ranks)
        elif len(ranks) == len(states) and all(CUT_EACH in state for _, state in ranks):
            self._check_ranks("model_states.pt", models)
            others = [self.others.enter_context(LightningFile(model)) for model in models[1:]]
            shapes = self.content.get("frozen_param_shapes") or {}
            if not is_shapes(shapes):
                raise self.corrupt("no shapes of its frozen parameters in it")
            kept = frozen(shapes, [(file, file.content) for file in (self, *others)])
            merged = [cut_each(groups, ranks), *kept]
        else:
            raise self.corrupt("the optim_states.pt beside it hold no fp32 weights of ZeRO 1 to 3")
        found = {**module}
        for part in merged:
            found |= self._views(part)
        shared = self.content.get("shared_params")
        for name, other in shared.items() if type(shared) is dict else ():
            if type(name) is type(other) is str and other in found:
                found[name] = found[other]
        return found

    def _check_ranks(self, kind: str, files: list[Path]) -> None:
        """Refuse a folder that lacks the file of some rank."""
        ranks = self.content.get("dp_world_size")
        there = {number_of(file) for file in files}
        if type(ranks) is not int or not max(there, default=0) < ranks <= MOST_RANKS:
            raise self.corrupt(
                f"dp_world_size is {brief(ranks)}, beside it are {len(there)} {kind}"
            )
        if lacking := [n for n in range(ranks) if n not in there]:
            listed = ", ".join(map(str, lacking[:8])) + (", ..." if len(lacking) > 8 else "")
            raise CheckpointCorrupt(
                f"{self.origin}: a checkpoint of DeepSpeed by {ranks} ranks without the {kind} of "
                f"rank {listed}; its fp32 weights are spread over the files of all: {AGAIN}"
            )

    def _views(self, merged: Merged) -> dict[str, View]:
        """Parameters as views of a storage that is put together when it is asked for."""
        held = Storage(str(FIRST_MERGED + len(self.merged)), torch.float32, merged.elements)
        self.merged[held.key] = merged.merge
        return {
            name: View(held, merged.starts[name], shape, strides(shape))
            for name, shape in merged.shapes.items()
        }


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a tensor whose elements follow each other."""
    return tuple(prod(shape[n + 1 :]) for n in range(len(shape)))


def number_of(file: Path) -> int:
    """Rank that a file is of; 0 where its name has none."""
    found = MODEL.fullmatch(file.name) or SHARD.fullmatch(file.name)
    assert found
    return int(found[1] or 0)


def find_tag(path: Path) -> Path:
    """The folder of a checkpoint that has its files: itself, or the one that `latest` names.

    Raises:
        BadInput: There is none, or several and no `latest`; names them.
    """

    def has_files(folder: Path) -> bool:
        return any(MODEL.fullmatch(p.name) or SHARD.fullmatch(p.name) for p in folder.iterdir())

    below = [path, *sorted(p for p in path.iterdir() if p.is_dir())]
    found = [folder for folder in below if has_files(folder)]
    if found and found[0] == path:
        return path
    latest = path / "latest"
    if latest.is_file():
        tag = latest.read_text(errors="replace")[:200].strip()
        found = [folder for folder in found if folder.name == tag]
        if not found:
            raise CheckpointCorrupt(
                f"{path}: a checkpoint of DeepSpeed whose file `latest` names {brief(tag)}, which "
                f"has no model_states.pt: {AGAIN}"
            )
    if not found:
        raise BadInput(
            f"{path}: a folder without mp_rank_00_model_states.pt; expected a checkpoint's file, "
            "or a folder as Lightning's DeepSpeed strategy writes it"
        )
    if len(found) > 1:
        raise BadInput(
            f"{path}: several checkpoints of DeepSpeed ({', '.join(f.name for f in found[:5])}); "
            "give the folder of one"
        )
    return found[0]


def find_files(path: Path, folder: Path) -> tuple[list[Path], list[Path]]:
    """The files with names and settings, and those with masters, each by rank.

    Raises:
        CheckpointCorrupt: Some are empty, or the first is missing.
        Unsupported: They are of a model that is spread over ranks by layers or columns.
    """
    names = [p for p in folder.iterdir() if p.is_file()]
    found = [sorted((p for p in names if k.fullmatch(p.name)), key=number_of) for k in KINDS]
    every = [*found[0], *found[1]]
    what = f"{path}: a checkpoint of DeepSpeed"
    if empty := [p.name for p in every if not p.stat().st_size]:
        raise CheckpointCorrupt(f"{what} with files of no bytes ({', '.join(empty[:3])}): {AGAIN}")
    if not found[0] or number_of(found[0][0]):
        raise CheckpointCorrupt(f"{what} without the model_states.pt of rank 0: {AGAIN}")
    if any("_mp_rank_00_" not in f"_{p.name}" for p in every):
        raise Unsupported(
            f"{what} whose model is spread over ranks (mp_rank_01); expected whole layers on every "
            "rank, as upstream trains"
        )
    return found[0], found[1]

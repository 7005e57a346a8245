"""A dataset made ready: its tensors by phase, and the corpus that models are trained on.

DIR/dataset.json                   what it is
DIR/corpus                         train, val and test trials (the Ray stage)
DIR/val/train_input.h5 eval_input.h5 target.h5
DIR/test/train_input.h5 eval_input.h5       where there are test trials
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.config import check, parse_scalar, set_key
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.job import prepare
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.shards.manifest import Manifest
from ndt3_dist.tasks.nlb.nlb_corpus import blocks_of, kind_of, recipe_of
from ndt3_dist.tasks.nlb.nlb_datasets import Dataset, check_bin, dataset_of
from ndt3_dist.tasks.nlb.nlb_h5 import read_h5, write_h5
from ndt3_dist.tasks.nlb.nlb_session import read_session
from ndt3_dist.tasks.nlb.nlb_tensors import eval_input, eval_target, train_input

SAID = "dataset.json"
RUNTIME = ("num_workers", "ray_address")
"""Keys of a recipe that a user may give: they change no byte."""
BEHAVIOUR = ("train_behavior", "eval_behavior")


@dataclass(frozen=True)
class DataFolder:
    """A folder that `make_data` made."""

    path: Path
    dataset: Dataset
    bin_ms: int
    fingerprint: str

    @classmethod
    def open(cls, path: str | Path) -> "DataFolder":
        """Raises BadInput where it is none."""
        said = Path(path) / SAID
        if not said.exists():
            raise BadInput(f"{path} has no {SAID}; expected a folder of ndt3 nlb data")
        found = storage.read_json(said)
        return cls(Path(path), dataset_of(found["dataset"]), found["bin_ms"], found["corpus"])

    @property
    def corpus(self) -> str:
        return str(self.path / "corpus")

    @property
    def key(self) -> str:
        return self.dataset.key(self.bin_ms)

    def tensors(self, phase: str, name: str) -> dict[str, Any]:
        """train_input, eval_input or target of a phase."""
        path = self.path / phase / f"{name}.h5"
        if not path.exists():
            why = "its source had no test trials" if phase == "test" else "it is half made"
            raise BadInput(f"{path} is not there ({why}); make the data again with ndt3 nlb data")
        found = read_h5(path)
        return found.get(self.key, found)


def sources_of(source: str | Path) -> list[Path]:
    """The files of a dataset: one, or all of a folder. Raises BadInput."""
    source = Path(source)
    if source.is_file():
        return [source]
    found = sorted(p for kind in ("nwb", "h5") for p in source.rglob(f"*.{kind}"))
    if not found:
        raise BadInput(
            f"{source} has neither .nwb nor .h5; expected a dandiset (dandi download DANDI:NUMBER) "
            "or a file of nlb_tools' tensors"
        )
    return found


def make_data(
    dataset: Dataset, source: str, out: str | Path, bin_ms: int = 5, options: Sequence[str] = ()
) -> tuple[DataFolder, Manifest]:
    """Make the tensors and the corpus of a dataset; what is there already stays.

    Args:
        source: Its NWB files as DANDI has them, or tensors that nlb_tools wrote.
        options: key=value of the corpus's recipe: num_workers, ray_address.
    """
    check_bin(bin_ms)
    out, files, trials = Path(out), sources_of(source), {}
    if (out / SAID).exists():
        raise BadInput(f"{out} is made already; choose another --out")
    for path in log.progress(files, "reading, files"):
        blocks = blocks_of(path, dataset, bin_ms)
        kind = kind_of([b.split for b in blocks])
        if kind in trials:
            raise BadInput(f"{source}: two files with {kind} trials; expected one dataset alone")
        trials[kind] = {b.split: len(b.heldin) for b in blocks}
        write = _from_nwb if path.suffix == ".nwb" else _from_tensors
        for phase, name, values in write(path, dataset, bin_ms, {b.split for b in blocks}):
            _merge(out / phase / f"{name}.h5", values)
    if "train" not in trials:
        raise BadInput(f"{source} has no train trials; expected the file with desc-train, too")
    recipe = recipe_of(dataset, bin_ms, str(source), str(out / "corpus"), trials)
    fields = recipe.model_dump()
    for option in options:
        key, _, text = option.partition("=")
        if key not in RUNTIME:
            raise BadInput(f"{option}: expected {', '.join(f'{k}=VALUE' for k in RUNTIME)}")
        set_key(fields, key, parse_scalar(text, key))
    manifest = prepare(check(Recipe, fields, "the recipe"))
    if manifest.failed:
        failed = manifest.failed[0]
        raise BadInput(f"{failed.source}: {failed.error}")
    said = {"dataset": dataset.name, "bin_ms": bin_ms, "corpus": manifest.fingerprint}
    storage.write_json(out / SAID, {**said, "trials": trials})
    return DataFolder.open(out), manifest


def _from_nwb(path: Path, dataset: Dataset, bin_ms: int, splits: set[str]):
    """Tensors that a file gives, as (phase, name, values)."""
    session = read_session(path, dataset)
    if "train" in splits:
        yield "val", "train_input", train_input(session, dataset, bin_ms)
        yield "test", "train_input", train_input(session, dataset, bin_ms, "test")
    if "val" in splits:
        yield "val", "eval_input", eval_input(session, dataset, bin_ms)
    if {"train", "val"} <= splits:
        yield "val", "target", eval_target(session, dataset, bin_ms)
    if "test" in splits:
        yield "test", "eval_input", eval_input(session, dataset, bin_ms, "test")


def _from_tensors(path: Path, dataset: Dataset, bin_ms: int, splits: set[str]):
    """Tensors of a file that has train_* and eval_* of the phase val."""
    values = read_h5(path)
    values = values.get(dataset.key(bin_ms), values)
    train = {k: v for k, v in values.items() if k.startswith("train_spikes")}
    scored = {k: v for k, v in values.items() if k.startswith("eval_spikes")}
    if "train" in splits:
        yield "val", "train_input", train
    if "val" in splits:
        inputs = {k: v for k, v in scored.items() if not k.endswith("_forward")}
        yield "val", "eval_input", inputs
    others = {k: v for k, v in values.items() if not k.startswith("train_spikes")}
    if {"eval_spikes_heldout", *BEHAVIOUR} <= others.keys():
        target = {k: v for k, v in others.items() if k != "eval_spikes_heldin"}
        yield "val", "target", {dataset.key(bin_ms): target}


def _merge(path: Path, values: dict[str, Any]) -> None:
    """Write a file; one that is there must hold the same, as after a start that was killed."""
    if not path.exists():
        write_h5(path, values)
        return
    there = read_h5(path)
    for name, value in values.items():
        if isinstance(value, dict):
            continue
        same = name in there and np.array_equal(
            np.asarray(there[name], np.float32), np.asarray(value, np.float32), equal_nan=True
        )
        if not same:
            raise BadInput(f"{path}: there already, and its {name} differs; choose another --out")

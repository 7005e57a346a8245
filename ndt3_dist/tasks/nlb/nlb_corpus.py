"""Trials as a corpus: each window is one trial with the bins behind it, end to end.

Spikes are the stream `spikes`, held-in units first, then held-out ones (arrays `heldin` and
`heldout`); `observed` says bin by bin whether each kind was seen; covariates are the lagged
velocity. A file's trials lie in the order train, val, test. `read` is the reader of a recipe: it
takes NWB files of the benchmark, and its HDF5 tensors as nlb_tools wrote them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.options import ReadOptions
from ndt3_dist.readers.recording import Recording, Signal
from ndt3_dist.shards.manifest import Array
from ndt3_dist.tasks.nlb.nlb_datasets import SPLITS, Dataset, check_bin, dataset_of
from ndt3_dist.tasks.nlb.nlb_h5 import read_h5
from ndt3_dist.tasks.nlb.nlb_session import HELDIN, HELDOUT, read_session
from ndt3_dist.tasks.nlb.nlb_tensors import Windows

READER = "ndt3_dist.tasks.nlb.nlb_corpus:read"
OBSERVED = "observed"
H5_SPLITS = {"train": "train", "val": "eval"}


@dataclass
class Block:
    """Trials of one split.

    Attributes:
        heldin, heldout: Counts (trials, bins, units), NaN where not observed; no held-out units
            where the file has none.
        velocity: (trials, bins of the trial, dims); no dims where there is none.
    """

    split: str
    heldin: np.ndarray
    heldout: np.ndarray
    velocity: np.ndarray


def blocks_of(path: Path, dataset: Dataset, bin_ms: int) -> list[Block]:
    """The trials of a file, NWB or HDF5, by split."""
    check_bin(bin_ms)
    if path.suffix in (".h5", ".hdf5"):
        return _of_tensors(path, dataset, bin_ms)
    session = read_session(path, dataset)
    has_heldout = bool(session.spikes[HELDOUT])
    binned = session.velocity_of(bin_ms) if session.velocity is not None else None
    found = []
    for split in SPLITS:
        if split not in session.splits:
            continue
        windows = Windows(session, dataset, (split,), bin_ms)
        heldin, heldout = (
            np.concatenate([windows.counts(kind), windows.counts(kind, forward=True)], axis=1)
            for kind in (HELDIN, HELDOUT)
        )
        velocity = np.zeros((len(heldin), dataset.bins(bin_ms), 0))
        if binned is not None:
            velocity = windows.behavior(binned, dataset.overlaps)
        found.append(Block(split, heldin, heldout if has_heldout else heldout[:, :, :0], velocity))
    return found


def _of_tensors(path: Path, dataset: Dataset, bin_ms: int) -> list[Block]:
    values, found = read_h5(path), []
    values = values.get(dataset.key(bin_ms), values)
    for split, begin in H5_SPLITS.items():
        if f"{begin}_spikes_heldin" not in values:
            continue
        heldin = np.asarray(values[f"{begin}_spikes_heldin"], np.float32)
        if heldin.ndim != 3 or heldin.shape[1] != dataset.bins(bin_ms):
            raise BadInput(
                f"{path}: {begin}_spikes_heldin has shape {heldin.shape}; expected (trials, "
                f"{dataset.bins(bin_ms)}, units), which is {dataset.name} in bins of {bin_ms} ms"
            )
        parts = []
        for kind in ("heldin", "heldout"):
            own = values.get(f"{begin}_spikes_{kind}", np.zeros((*heldin.shape[:2], 0)))
            more = values.get(f"{begin}_spikes_{kind}_forward")
            if more is None:
                shape = len(own), dataset.forward_bins(bin_ms), own.shape[2]
                more = np.full(shape, np.nan)
            parts.append(np.concatenate([own, more], axis=1).astype(np.float32))
        velocity = np.asarray(values.get(f"{begin}_behavior", np.zeros((0, 0))), np.float64)
        if velocity.ndim != 3:
            velocity = np.zeros((*heldin.shape[:2], 0))
        found.append(Block(split, parts[0], parts[1], velocity))
    if not found:
        raise BadInput(
            f"{path}: neither train_spikes_heldin nor eval_spikes_heldin; expected the tensors of "
            f"{dataset.name} as nlb_tools writes them"
        )
    return found


def read(path: str | Path, options: ReadOptions) -> Recording:
    """The reader of a recipe with `options: {dataset: NAME}`."""
    path, bin_ms = Path(path), round(options.bin_size_ms)
    dataset = dataset_of(str(options.options.get("dataset", "")))
    return laid_out(path, blocks_of(path, dataset, bin_ms), dataset, bin_ms)


def laid_out(path: Path, blocks: list[Block], dataset: Dataset, bin_ms: int) -> Recording:
    """Trials end to end as one recording."""
    bin_s, forward = bin_ms / 1000, dataset.forward_bins(bin_ms)
    units = blocks[0].heldout.shape[2]
    if any(b.heldout.shape[2] != units for b in blocks):
        raise BadInput(f"{path}: splits with and without held-out units; expected a file of each")
    counts, observed, velocity = [], [], []
    for block in blocks:
        whole = np.concatenate([block.heldin, block.heldout], axis=2)
        seen = [~np.isnan(part).any(axis=2) for part in (block.heldin, block.heldout)]
        seen = np.stack(seen, axis=2) if units else np.stack([seen[0], 0 * seen[0]], axis=2)
        counts.append(np.nan_to_num(whole).reshape(-1, whole.shape[2]))
        observed.append(seen.reshape(-1, 2))
        padded = np.pad(block.velocity, ((0, 0), (0, forward), (0, 0)), constant_values=np.nan)
        velocity.append(padded.reshape(len(observed[-1]), padded.shape[2]))
    rows = sum(map(len, counts))
    times = np.arange(rows) * bin_s
    window_s = (dataset.bins(bin_ms) + forward) * bin_s
    starts = np.arange(sum(len(b.heldin) for b in blocks)) * window_s
    arrays = [Array(name="heldin", channels=blocks[0].heldin.shape[2])]
    arrays += [Array(name="heldout", channels=units)] if units else []
    dims = min(v.shape[1] for v in velocity)
    subject = re.search(r"sub-([^_.]+)", path.stem)
    return Recording(
        subject=subject.group(1) if subject else "unknown",
        session=kind_of([b.split for b in blocks]),
        spike_times=[],
        arrays=arrays,
        start_s=0.0,
        stop_s=rows * bin_s,
        covariate_times=times if dims else np.zeros(0),
        covariates=np.concatenate([v[:, :dims] for v in velocity]) if dims else np.zeros((0, 0)),
        covariate_names=("x", "y", "z")[:dims],
        covariate_unit="recorded",
        counts=np.concatenate(counts),
        count_bin_s=bin_s,
        signals=[
            Signal(OBSERVED, np.concatenate(observed).astype(float), times, "1", dtype="float16")
        ],
        spans=np.column_stack([starts, starts + window_s]),
    )


def kind_of(splits: list[str]) -> str:
    """Session of a file with trials of these splits."""
    return "test" if splits == ["test"] else "train"


def recipe_of(
    dataset: Dataset, bin_ms: int, source: str, out: str, trials: dict[str, dict[str, int]]
) -> Recipe:
    """The recipe of a dataset's corpus.

    Args:
        trials: Of each session (`kind_of`): of each split the number of trials, in order.
    """
    window_ms = (dataset.bins(bin_ms) + dataset.forward_bins(bin_ms)) * bin_ms
    rules: list[dict[str, Any]] = []
    for session, splits in trials.items():
        at, intervals = 0, {}
        for split, number in splits.items():
            intervals[split] = (at * window_ms / 1000, (at + number) * window_ms / 1000)
            at += number
        rules.append({"match": f"*-{session}", "unit": "s", "intervals": intervals})
    return Recipe.model_validate(
        {
            "dataset": dataset.name,
            "source": source,
            "pattern": "**/*.nwb",
            "out": out,
            "licence": "CC-BY-4.0",
            "reader": READER,
            "options": {"dataset": dataset.name},
            "bin_size_ms": bin_ms,
            "window_ms": window_ms,
            "splits": rules,
            "shard_mb": 8,
        }
    )

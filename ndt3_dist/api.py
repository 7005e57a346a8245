"""NDT3 from Python: prepare arrays, look into a corpus, fit a decoder, decode and embed counts.

Everything runs in this process, without Ray, DeepSpeed or a store; each function calls what the
program of the same purpose calls. Numbers go in and come out as numpy arrays: counts (bins,
channels), covariates (bins, dims) in the units of the recording, NaN where not valid.
"""

import contextlib
import functools
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ndt3_dist.api_decoder import Decoder, open_decoder
from ndt3_dist.checkpoint.local_export import local_export
from ndt3_dist.config import check, find_file, read_values
from ndt3_dist.data.continuous import read_pieces
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.job import prepare as run_job
from ndt3_dist.prep.recipe import RUNTIME_KEYS, Recipe
from ndt3_dist.readers.in_memory import recording
from ndt3_dist.readers.options import CovariatesRecipe
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Manifest
from ndt3_dist.tune.finetune import finetune
from ndt3_dist.tune.tune_config import TuneConfig

__all__ = [
    "Decoder",
    "Recording",
    "SessionArrays",
    "Windows",
    "fit",
    "open_corpus",
    "open_decoder",
    "prepare",
    "recording",
]
OF_FILES = {"reader", "options", "session_from", "spikes", "mat", "validity", "pattern"}
"""Keys of a recipe that say how files are read."""
FILE_COVARIATES = {*CovariatesRecipe.model_fields} - {
    "quantile",
    "max_gap_ms",
    "resample",
    "causal",
}
"""Those of its covariates that do."""


@dataclass(frozen=True)
class SessionArrays:
    """All bins of a session that the opened splits hold, in order of time.

    Attributes:
        spikes: (bins, channels) uint8.
        covariates: In the units of the recording, NaN where not valid, (bins, dims) float32.
        bin: Number of each bin in the session, (bins,): where it leaps, windows are left out.
        names, units: Of the covariates.
        bin_ms: Bin size in ms.
    """

    spikes: np.ndarray
    covariates: np.ndarray
    bin: np.ndarray
    names: list[str]
    units: list[str]
    bin_ms: float


class Windows(IterableDataset):
    """The windows of a corpus, in its own order, which mixes sessions.

    Each is a dict of key and session (text) and the arrays that the corpus holds under the names of
    its streams: spikes (bins, channels) uint8, covariates (bins, dims) float32 in units of the
    session's scale. Workers of a DataLoader share them.

    Attributes:
        path: Of the corpus.
        splits: Those that are opened.
        manifest: Says what is the same for all windows of a session.
    """

    def __init__(self, path: str, splits: tuple[str, ...]):
        self.path, self.splits = path, splits
        self.manifest: Manifest = self._corpus.manifest

    @functools.cached_property
    def _corpus(self) -> Corpus:
        return Corpus(self.path, self.splits)

    def __getstate__(self) -> dict:
        """Without open files, for workers that are spawned."""
        return {k: v for k, v in self.__dict__.items() if k != "_corpus"}

    @property
    def sessions(self) -> list[str]:
        """Ids of all sessions."""
        return [s.id for s in self.manifest.sessions if not s.is_removed]

    def __len__(self) -> int:
        return len(self._corpus)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for number in range(first, len(self), step):
            session = self.manifest.sessions[int(self._corpus.record(number)["session"])].id
            key = self._corpus.key(number)
            yield {"key": key, "session": session, **self._corpus.read(number)}

    def session(self, session: str) -> SessionArrays:
        """A session put back together."""
        entry, pieces = read_pieces(self._corpus, session)
        scale = np.array([c.scale for c in entry.covariates])
        stored = np.concatenate([p.covariates for p in pieces])
        return SessionArrays(
            spikes=np.concatenate([p.spikes for p in pieces]),
            covariates=(stored * scale).astype(np.float32),
            bin=np.concatenate([p.start_bin + np.arange(len(p)) for p in pieces]),
            names=[c.name for c in entry.covariates],
            units=[c.unit for c in entry.covariates],
            bin_ms=self.manifest.bin_size_ms,
        )


def open_corpus(path: str | Path, splits: str | Sequence[str] = "train") -> Windows:
    """Open one or more splits of a corpus: train, val, calibration, test."""
    return Windows(str(path), (splits,) if isinstance(splits, str) else tuple(splits))


def prepare(
    recordings: Sequence[Recording], out: str | Path, *, verbose: bool = False, **recipe: Any
) -> str:
    """Make a corpus of recordings that are in memory (`recording`), or add new ones to it.

    Args:
        recordings: Of any number of sessions.
        out: Folder of the corpus.
        verbose: Print what `data_prep/preprocess.py` prints.
        recipe: Keys of a recipe (docs/prepare.md), at least `dataset`: bin_size_ms, window_ms,
            splits, covariates, preprocess, licence, ...
    Returns:
        `out`.
    Raises:
        BadInput: A key is wrong, or more recordings than `allow_failures` cannot be used; a corpus
            of the others is there then.
    """
    where = "prepare(...)"
    idle = recipe.keys() & (OF_FILES | (RUNTIME_KEYS - {"rebuild", "allow_failures"}))
    if isinstance(said := recipe.get("covariates"), Mapping):
        idle |= {f"covariates.{key}" for key in FILE_COVARIATES & said.keys()}
    if idle:
        raise BadInput(f"{where}: {', '.join(sorted(idle))} say how files are read; leave them out")
    checked = check(Recipe, {**recipe, "out": str(out), "num_workers": 0}, where)
    with _quiet(verbose):
        manifest = run_job(checked, recordings)
    if len(failed := manifest.failed) > checked.allow_failures:
        raise BadInput(
            f"{len(failed)} of {len(recordings)} recordings cannot be used, such as "
            f"{failed[0].source}: {failed[0].error}; the others are in {out}"
        )
    return str(out)


def fit(
    corpus: str | Path,
    session: str = "",
    init: str | Path | None = None,
    *,
    out: str | Path,
    config: str | Path = "tune_session.yaml",
    split: str = "calibration",
    covariates: Sequence[str] = (),
    scratch: bool = False,
    verbose: bool = False,
    **settings: Mapping[str, Any],
) -> str:
    """Fit a decoder to one session; needs a process's main thread, as it heeds signals.

    Args:
        corpus: That holds the session.
        session: Its id; empty = the only one that has the split.
        init: Export to start from, a folder or an address; None = new weights of the architecture
            `model`.
        out: Folder of the run, new or of the same fit, which was interrupted.
        config: File or name of a shipped config.
        split: To fit to.
        covariates: Names of those to fit; empty = all.
        scratch: Take only the architecture of `init`.
        verbose: Print what `launch/finetune.py` prints.
        settings: Sections of the config in which keys differ: train={"steps": 200},
            optim={"lr": 1e-4}, model={...}.
    Returns:
        Folder of the export.
    Raises:
        BadInput: A key is wrong, or the session cannot be fitted.
        KeyboardInterrupt: It was asked to stop; the same call goes on.
    """
    file, place = find_file(config, "configs"), Path(os.path.abspath(out))
    values = read_values(TuneConfig, file)
    data = {"corpus": str(corpus), "session": session, "fit": split}
    data |= {"covariates": list(covariates)} if covariates else {}
    own = {"run": {"dir": str(place.parent), "name": place.name}, "data": data}
    for section in (settings, own):
        for name, keys in section.items():
            if not isinstance(keys, Mapping):
                raise BadInput(f"fit(...): {name} is {keys!r}; expected its keys in a dict")
            values[name] = {**(values.get(name) or {}), **keys}
    checked = check(TuneConfig, values, f"{file.name} with what fit(...) was given")
    with _quiet(verbose):
        result = finetune(checked, None if init is None else str(local_export(init)), scratch)
    if result["stopped"]:
        raise KeyboardInterrupt(f"stopped ({result['stopped']}); the same call goes on")
    return result["export"]


def _quiet(verbose: bool) -> contextlib.AbstractContextManager:
    """Leaves out what is said on standard output; warnings are on another."""
    if verbose:
        return contextlib.nullcontext()
    return contextlib.redirect_stdout(io.StringIO())

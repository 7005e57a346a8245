"""Parcel time series as published: one HDF5 file per subject and task, one array per run."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.hdf5 import open_hdf5
from ndt3_dist.tasks.fmri.clips.clip_names import parse_key

FILE = re.compile(r"(?P<subject>sub-\w+?)_task-.*_bold\.h5")
OPEN = 16
"""Files that stay open."""


@dataclass(frozen=True)
class Run:
    """A showing of a clip to a subject: where it lies, and its samples."""

    path: Path
    key: str
    rows: int


class BoldRuns:
    """Runs of some subjects.

    Attributes:
        subjects: As they were asked for.
        parcels: Of all of them.
        runs: (clip, number of the showing from 1) -> subject -> its run.
    """

    def __init__(self, data_dir: str | Path, subjects: Sequence[str] = ()):
        """
        Args:
            data_dir: Folder with sub-*/func/*_bold.h5 somewhere below it.
            subjects: Such as sub-01; empty = all that are there.
        Raises:
            BadInput: A subject has no file, an array has another form, or a run is there twice.
        """
        files: dict[str, list[Path]] = {}
        for path in sorted(Path(data_dir).rglob("func/*_bold.h5")):
            if named := FILE.fullmatch(path.name):
                files.setdefault(named["subject"], []).append(path)
        self.subjects = list(subjects or files)
        if lost := [s for s in self.subjects if s not in files] or ["any subject"] * (not files):
            raise BadInput(
                f"{data_dir}: no BOLD of {', '.join(lost)}; expected "
                "SUBJECT/func/SUBJECT_task-*_bold.h5 below it"
            )
        self.runs: dict[tuple[str, int], dict[str, Run]] = {}
        self.parcels = 0
        self.opened: OrderedDict[Path, tuple[ExitStack, Any]] = OrderedDict()
        for subject in self.subjects:
            for where, run in self._of_subject(files[subject]).items():
                self.runs.setdefault(where, {})[subject] = run
        self.runs = dict(sorted(self.runs.items()))

    @classmethod
    def of(cls, subjects: Sequence[str], parcels: int, runs: dict) -> "BoldRuns":
        """Of runs that are known already."""
        found = cls.__new__(cls)
        found.subjects, found.parcels, found.runs = [*subjects], parcels, runs
        found.opened = OrderedDict()
        return found

    def _of_subject(self, paths: list[Path]) -> dict[tuple[str, int], Run]:
        """Its runs; showings without a number are counted in the order of their sessions."""
        found: dict[str, list[tuple[int, int, Run]]] = {}
        for path in paths:
            root = self._root(path)
            for key in root.names():
                parsed = parse_key(key)
                if parsed is None:
                    raise BadInput(f"{path}: key {key!r}; expected ses-NNN_task-CLIP[_run-N]")
                array = root[key]
                if len(array.shape) != 2 or array.dtype.kind != "f" or not len(array):
                    raise BadInput(
                        f"{path}: {key} is {array.dtype} {array.shape}; expected floats (samples, "
                        "parcels)"
                    )
                self.parcels = self.parcels or array.shape[1]
                if array.shape[1] != self.parcels:
                    raise BadInput(
                        f"{path}: {key} has {array.shape[1]} parcels, others have {self.parcels}"
                    )
                clip, session, number = parsed
                run = Run(path, key, len(array))
                found.setdefault(clip, []).append((number or 0, session, run))
        runs = {}
        for clip, showings in found.items():
            showings.sort(key=lambda s: s[:2])
            for count, (number, _, run) in enumerate(showings, 1):
                where = clip, number or count
                if where in runs:
                    raise BadInput(
                        f"{run.path}: {run.key} and {runs[where].key} are both run {where[1]} of "
                        f"{clip}"
                    )
                runs[where] = run
        return runs

    def _root(self, path: Path) -> Any:
        """The root of a file, which stays open while it is among the last used."""
        if path in self.opened:
            self.opened.move_to_end(path)
            return self.opened[path][1]
        stack = ExitStack()
        try:
            root = stack.enter_context(open_hdf5(path))
        except OSError as e:
            raise BadInput(
                f"{path}: not a readable HDF5 file ({e}); fetch its content (datalad get, git "
                "annex get)"
            ) from e
        self.opened[path] = stack, root
        while len(self.opened) > OPEN:
            self.opened.popitem(last=False)[1][0].close()
        return root

    def rows(self, clip: str, number: int) -> int:
        """Samples of the subject that has the most."""
        return max(run.rows for run in self.runs[clip, number].values())

    def read(self, clip: str, number: int, start: int, stop: int) -> np.ndarray:
        """Some samples of all subjects, (rows, subjects, parcels) float32.

        NaN where a subject lacks the run, or has fewer samples than others.
        """
        shape = stop - start, len(self.subjects), self.parcels
        found = np.full(shape, np.nan, np.float32)
        for subject, run in self.runs[clip, number].items():
            here = self._root(run.path)[run.key][start:stop]
            found[: len(here), self.subjects.index(subject)] = here
        return found

    def clips_of(self, subject: str, clips: Iterable[str]) -> dict[str, np.ndarray]:
        """First showings of some clips to a subject, those that it saw, (rows, parcels) each."""
        found = {}
        for clip in sorted(clips):
            if run := self.runs.get((clip, 1), {}).get(subject):
                found[clip] = np.asarray(self._root(run.path)[run.key][:], np.float32)
        return found

    def close(self) -> None:
        for stack, _ in self.opened.values():
            stack.close()
        self.opened.clear()

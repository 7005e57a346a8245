"""Clips with their features and BOLD, from the published files or from a corpus: rows on demand.

A clip is one showing of a part of a film, to all subjects that saw it. BOLD decides its length;
features have a sample or two more or less, and the last row stands for those that are missing.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.tasks.fmri.clips.bold_runs import BoldRuns
from ndt3_dist.tasks.fmri.clips.clip_names import film_of
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree

BOLD = "bold"
"""The target stream of a corpus."""
GAP = 5
"""Samples by which features and BOLD of a clip may differ: published ones do by two."""


@dataclass(frozen=True)
class Clip:
    """One showing.

    Attributes:
        name: Such as s01e02a.
        number: Of the showing, from 1.
        rows: Samples of BOLD.
    """

    name: str
    number: int
    rows: int

    @property
    def film(self) -> str:
        return film_of(self.name)

    @property
    def id(self) -> str:
        return self.name if self.number == 1 else f"{self.name}_run-{self.number}"


class ClipSource(Protocol):
    """Where clips come from.

    Attributes:
        subjects: In the order of the BOLD's second dimension.
        parcels: Of each subject.
        dims: Columns of each stream, in order.
    """

    clips: list[Clip]
    subjects: list[str]
    parcels: int
    dims: dict[str, int]

    def features(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        """(rows, dims of all streams) float32, not finite ones as 0."""
        ...

    def bold(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        """(rows, subjects, parcels) float32, NaN where there is none."""
        ...


class TreeSource:
    """Published files: a tree of features and HDF5 files of BOLD."""

    def __init__(self, tree: FeatureTree, runs: BoldRuns, exclude: Sequence[str] = ()):
        """
        Args:
            exclude: Patterns of clips or films that are left out.
        Raises:
            BadInput: A clip lacks features, or they have another length.
        """
        self.tree, self.runs, self.dims = tree, runs, tree.dims
        self.subjects, self.parcels = runs.subjects, runs.parcels
        clips = [Clip(name, number, runs.rows(name, number)) for name, number in runs.runs]
        self.clips = [c for c in clips if not matches(c, exclude)]
        tree.check(c.name for c in self.clips)
        for clip in self.clips:
            check_length(clip.name, tree.rows(clip.name), clip.rows)

    def features(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        found = self.tree.read(clip.name, start, stop)
        return np.nan_to_num(found, copy=False, posinf=0, neginf=0)

    def bold(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        return self.runs.read(clip.name, clip.number, start, stop)


class CorpusSource:
    """A corpus that the Ray stage made of the published files (`clip_reader`)."""

    def __init__(self, path: str, subjects: Sequence[str], exclude: Sequence[str] = ()):
        """
        Args:
            subjects: In the order in which the corpus has them.
        Raises:
            BadInput: It has no stream of BOLD, or not of so many subjects.
        """
        splits = "train", "val"
        self.corpus, self.subjects = Corpus(path, splits), list(subjects)
        entries = self.corpus.manifest.sessions
        streams = {s.name: s.dims for s in entries[0].streams}
        if BOLD not in streams or streams[BOLD] % max(len(subjects), 1):
            raise BadInput(
                f"{path}: stream {BOLD} has {streams.get(BOLD, 0)} columns; expected those of "
                f"{len(subjects)} subjects (data.subjects)"
            )
        self.parcels = streams.pop(BOLD) // len(subjects)
        self.dims, index = streams, self.corpus.index
        self.windows: dict[Clip, np.ndarray] = {}
        for number, entry in enumerate(entries):
            mine = np.flatnonzero(index["session"] == number)
            mine = mine[np.argsort(index["start_bin"][mine])]
            rows = int(index["bins"][mine].sum())
            if rows:
                name, _, showing = entry.session.partition("_run-")
                self.windows[Clip(name, int(showing or 1), rows)] = mine
        self.clips = sorted(
            (c for c in self.windows if not matches(c, exclude)), key=lambda c: (c.name, c.number)
        )

    def _read(self, clip: Clip, start: int, stop: int, names: Sequence[str]) -> np.ndarray:
        numbers = self.windows[clip]
        ends = np.cumsum(self.corpus.index["bins"][numbers])
        first, last = np.searchsorted(ends, [start, stop - 1], "right")
        samples = [self.corpus.read(int(n)) for n in numbers[first : last + 1]]
        skipped = int(ends[first - 1]) if first else 0
        each = [np.concatenate([s[name] for name in names], axis=1) for s in samples]
        return np.concatenate(each)[start - skipped : stop - skipped].astype(np.float32)

    def features(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        return np.nan_to_num(self._read(clip, start, stop, [*self.dims]), posinf=0, neginf=0)

    def bold(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        shape = stop - start, len(self.subjects), self.parcels
        return self._read(clip, start, stop, [BOLD]).reshape(shape)


def matches(clip: Clip, patterns: Sequence[str]) -> bool:
    """Whether a clip, its showing or its film is named by one of some patterns."""
    names = clip.name, clip.id, clip.film
    return any(fnmatch.fnmatchcase(name, p) for name in names for p in patterns)


def check_length(clip: str, features: int, samples: int) -> None:
    """Raise BadInput where features and BOLD cannot be of the same film."""
    if abs(features - samples) > GAP:
        raise BadInput(
            f"clip {clip}: {features} rows of features, {samples} samples of BOLD; expected {GAP} "
            "of difference at most, one row per sample of 1.49 s"
        )


def hold_out(
    clips: Sequence[Clip], val: Sequence[str], val_run: int = 0
) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and clips held out, by name.

    Args:
        val: Patterns of clips or films; empty = none.
        val_run: Of these, the showings of this number alone; the others are neither.
    Raises:
        BadInput: Nothing is left on one side.
    """
    held = [c for c in clips if matches(c, val)]
    first = [c for c in clips if c not in held]
    held = [c for c in held if not val_run or c.number == val_run]
    if not first or (val and not held):
        films = ", ".join(dict.fromkeys(c.film for c in clips))
        raise BadInput(
            f"data.val {list(val)}: {len(first)} clips to train on, {len(held)} held out; there "
            f"are films {films}"
        )
    return first, held

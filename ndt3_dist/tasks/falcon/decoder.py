"""Decode recordings of FALCON as they arrive, several at once, with what its evaluator asks for.

The recordings of a batch may be of different sessions, each with its own export, layout and scale;
those that share export and session are computed together. Recordings that have ended go on with
silent bins. Nothing here needs FALCON's own package (`official` does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.evaluate.online import OnlineDecoder, Opened, Units, open_export, read_units
from ndt3_dist.tasks.falcon.fitted import Decodes, read_fitted
from ndt3_dist.tasks.falcon.tags import Task, task_of


@dataclass(frozen=True)
class How:
    """How bins are computed.

    Attributes:
        keep: Keep keys and values of earlier bins, else recompute the window.
        kind: What kept bins are computed in: fp32, bf16, int8, auto.
        context: Bins that a prediction sees; 0 = what the fit says.
        device: Empty = a GPU if there is one.
    """

    keep: bool = True
    kind: str = "auto"
    context: int = 0
    device: str = ""


@dataclass
class Group:
    """Recordings of a batch that one decoder steps.

    Attributes:
        places: Of them in the batch.
        scale: Raw units per unit of a prediction, (dims,).
    """

    places: list[int]
    decoder: OnlineDecoder
    scale: np.ndarray


class MovementDecoder:
    """`reset`, `predict`, `observe`, `on_done` and `set_batch_size`, as the evaluator calls them.

    Attributes:
        task: Of the benchmark.
        batch_size: Recordings that come together at most.
    """

    def __init__(
        self, folder: str | Path, batch_size: int = 0, how: How | None = None, trials: bool = False
    ):
        """
        Args:
            folder: What a fit left.
            batch_size: 0 = as many as the evaluator serves together.
            trials: Each trial begins without history (`on_done` says when); else one is continual.
        Raises:
            BadInput, CheckpointCorrupt: An export is missing or does not fit the task, or has no
                scale for a recording it is to decode; all are looked at now.
        """
        self.folder, self.fitted = Path(folder), read_fitted(folder)
        self.task, self.how, self.trials = task_of(self.fitted.task), how or How(), trials
        self.set_batch_size(batch_size or self.task.batch)
        self.units = {tag: self._units(tag, by) for tag, by in self.fitted.decoders.items()}
        self.opened: dict[Decodes, Opened] = {}
        self.tags: list[str] = []
        self.groups: list[Group] = []
        self.bin = 0

    def _units(self, tag: str, by: Decodes) -> Units:
        units = read_units(str(self.folder / by.export), by.session)
        for what, found, expected in (
            ("covariates", len(units.scale), self.task.dims),
            ("channels", sum(units.channels), self.task.channels),
        ):
            if found != expected:
                raise BadInput(
                    f"{self.folder / by.export}: session {by.session}, which is to decode {tag}, "
                    f"has {found} {what}; FALCON {self.task.name} has {expected}"
                )
        return units

    def set_batch_size(self, batch_size: int) -> None:
        if batch_size < 1:
            raise BadInput(f"batch size {batch_size}: expected at least 1")
        self.batch_size = batch_size

    def reset(self, dataset_tags: Sequence[str | Path]) -> None:
        """Begin a batch of recordings, none of which has a bin yet.

        Args:
            dataset_tags: Their files or tags.
        """
        found = [self.fitted.of(self.task, name) for name in dataset_tags]
        self.tags, self.bin = [tag for tag, _ in found], 0
        together: dict[tuple, list[int]] = {}
        for place, (_, by) in enumerate(found):  # a trial ends for one alone
            together.setdefault((by, place if self.trials else -1), []).append(place)
        kept = {by for by, _ in together}
        self.opened = {by: opened for by, opened in self.opened.items() if by in kept}
        self.groups = [self._group(by, places) for (by, _), places in together.items()]

    def _group(self, by: Decodes, places: list[int]) -> Group:
        units, how = self.units[self.tags[places[0]]], self.how
        if by not in self.opened:
            where = str(self.folder / by.export), units, units.channels
            self.opened[by] = open_export(*where, how.device)
        opened = self.opened[by]
        context = how.context or self.fitted.context or units.window
        filters = opened.readout.filters if opened.readout else None
        where = opened.model, opened.layout, context, how.keep, filters, how.kind
        return Group(places, OnlineDecoder(*where, len(places)), units.scale)

    def predict(self, neural_observations: np.ndarray) -> np.ndarray:
        """Read the next bin of each recording and decode it.

        Args:
            neural_observations: Counts, (recordings, channels).
        Returns:
            (recordings, dims) float64 in raw units.
        Raises:
            BadInput: Counts of another shape, or that are none.
            CheckpointCorrupt: A prediction is not finite; names recording and bin.
        """
        counts = checked_bin(neural_observations, len(self.tags), self.task)
        found = np.empty((len(counts), self.task.dims))
        for group in self.groups:
            steps = group.decoder.step(counts[group.places])
            with np.errstate(over="ignore"):  # what is not finite is named below
                found[group.places] = steps.reshape(len(group.places), -1) * group.scale
        if not np.isfinite(found).all():
            tag = self.tags[int(np.argmin(np.isfinite(found).all(axis=1)))]
            raise CheckpointCorrupt(
                f"{tag}, bin {self.bin}: the prediction is not finite; look at the export of "
                f"{self.fitted.decoders[tag].session}"
            )
        self.bin += 1
        return found

    def observe(self, neural_observations: np.ndarray) -> None:
        """Read the next bin of each recording, and predict nothing."""
        counts = checked_bin(neural_observations, len(self.tags), self.task)
        for group in self.groups:
            group.decoder.observe(counts[group.places])
        self.bin += 1

    def on_done(self, dones: np.ndarray) -> None:
        """A new trial begins with the next bin where `dones` is true, (recordings,)."""
        done = np.asarray(dones, bool).ravel()
        if self.trials:
            for group in self.groups:
                if done[group.places].any():
                    group.decoder.reset()


def checked_bin(given: np.ndarray, recordings: int, task: Task) -> np.ndarray:
    """Counts of a bin of each recording, (recordings, channels) uint8."""
    counts = np.asarray(given)
    if counts.shape != (recordings, task.channels):
        raise BadInput(
            f"a bin of {counts.shape} counts; expected ({recordings}, {task.channels}): "
            f"recordings that `reset` named, and channels of FALCON {task.name}"
        )
    if counts.dtype == np.uint8:
        return counts
    if not (np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts))).all():
        raise BadInput("a bin with values that are no counts; expected whole numbers from 0")
    return np.minimum(counts, 255).astype(np.uint8)

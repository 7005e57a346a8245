"""A recording bin by bin as FALCON's evaluator serves it: counts, what is true, what is scored.

Bins are those of the file's own clock, and their borders those of the evaluator, spike for spike.
Bins that are not scored are served as well: a decoder needs them as history. Where the clock leaps,
nothing is served of the gap.

Source: falcon_challenge 1.0.2 (dataloaders.py).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.nwb.nwb_counts import checked_counts
from ndt3_dist.readers.nwb.nwb_file import NwbFile, TimeSeries, open_nwb
from ndt3_dist.readers.nwb.nwb_series import expand, find_series
from ndt3_dist.readers.nwb.nwb_units import read_units
from ndt3_dist.readers.options import SpikesRecipe
from ndt3_dist.tasks.falcon.tags import Task, tag_of

BIN_S = 0.02
TRIAL_GAP_S = 0.021
"""Between bins of h2 that are further apart than this one trial ends."""


@dataclass(frozen=True)
class Served:
    """Attributes:
    tag: Of the recording.
    counts: (bins, channels) uint8.
    mask: Which bins are scored, (bins,) bool.
    truth: Covariates in raw units, (bins, dims) float64; none for text.
    ends: Last bins of trials, (bins,) bool; of text alone.
    texts: What was written in each trial.
    """

    tag: str
    counts: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    ends: np.ndarray
    texts: tuple[str, ...] = ()


def find_files(data: str | Path, task: Task, phase: str = "minival") -> list[Path]:
    """Files of a phase, in order of name, where the evaluator would look for them.

    Args:
        data: Folder with a folder TASK, or its number of DANDI; in it minival or *minival, and eval
            for phase test.
    Raises:
        BadInput: There are none.
    """
    own = next((Path(data, n) for n in (task.name, task.dandi) if Path(data, n).is_dir()), None)
    if own is None:
        raise BadInput(f"{data}: no folder {task.name} or {task.dandi} with the files of the task")
    pattern = "eval" if phase == "test" else "*minival"
    folder = next(iter(sorted(p for p in own.glob(pattern) if p.is_dir())), None)
    files = sorted(folder.glob("*val*.nwb")) if folder else []
    if not files:
        more = "; those of phase test are not public" if phase == "test" else ""
        raise BadInput(f"{own}/{pattern}: no files *val*.nwb of phase {phase}{more}")
    return files


def read_served(task: Task, path: str | Path) -> Served:
    """Read a file of a task; BadInput names the file and what is wrong with it."""
    tag = tag_of(task, os.fspath(path))
    with open_nwb(Path(path)) as nwb:
        mask = find_series(nwb, "acquisition/eval_mask", "mask").data().ravel().astype(bool)
        if task.name == "h2":
            counts, ends, texts = _written(nwb)
            truth = np.zeros((len(counts), 0))
        else:
            truth, stops = _moved(nwb, task)
            counts, ends, texts = count(nwb, stops), np.zeros(len(truth), bool), ()
        for what, found, expected in (
            ("channels", counts.shape[1], task.channels),
            ("covariates", truth.shape[1], task.dims),
            ("values of eval_mask", len(mask), len(counts)),
        ):
            if found != expected:
                raise BadInput(f"has {found} {what}; {task.name} has {expected}")
    return Served(tag, counts, mask, truth, ends, texts)


def _moved(nwb: NwbFile, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Covariates (bins, dims) and the end of each bin in s."""
    if task.name == "h1":
        (series,) = expand(nwb, "acquisition/OpenLoopKinematicsVelocity")
        clock: TimeSeries = find_series(nwb, "acquisition/OpenLoopKinematics")
        values = series.data().astype(np.float64)
        # The file's offset is the first time, its rate the period.
        steps = clock.rate if clock.rate is not None and clock.rate < 1 else BIN_S
        return values, clock.attribute("offset", 0.0) + np.arange(len(values)) * steps
    name = {"m1": "preprocessed_emg", "m2": "finger_vel"}[task.name]
    series = expand(nwb, f"acquisition/{name}/*")
    times = series[0].timestamps()
    values = [s.data().astype(np.float64).ravel() for s in series]
    if times is None or {len(v) for v in values} != {len(times)}:
        raise BadInput(f"acquisition/{name}: expected as many times as samples in each series")
    return np.column_stack(values), times + BIN_S * (task.name == "m2")  # m2 stamps starts


def count(nwb: NwbFile, stops: np.ndarray) -> np.ndarray:
    """Spikes of each unit in bins that end at `stops`, (bins, units) uint8.

    A bin begins where the one before it ends, or BIN_S earlier than its end behind a gap.
    """
    steps = np.diff(stops)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0)) + 1
        raise BadInput(f"bin {at} ends at {stops[at]:.4f} s, not later than the one before it")
    behind_gap = np.r_[True, (steps > BIN_S) & ~np.isclose(steps, BIN_S)]
    starts = np.where(behind_gap, stops - BIN_S, np.r_[0, stops[:-1]])
    units = read_units(nwb, SpikesRecipe(channels="unit")).times
    counts = np.zeros((len(stops), len(units)), np.uint8)
    for unit, times in enumerate(units):
        number = times.searchsorted(stops) - times.searchsorted(starts)
        number[-1] += (times == stops[-1]).sum()  # the last border belongs to the last bin
        counts[:, unit] = np.minimum(number, 255)
    return counts


def _written(nwb: NwbFile) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Counts (bins, channels), last bins of trials, and the texts of these."""
    series = find_series(nwb, "acquisition/binned_spikes", "counts")
    counts, times = checked_counts(series), series.timestamps()
    trials = nwb.intervals().get("trials")
    if times is None or len(times) != len(counts) or trials is None or "cue" not in trials.colnames:
        raise BadInput("expected binned_spikes with a time each, and trials with a column cue")
    ends = np.r_[np.diff(times) > TRIAL_GAP_S, True]
    texts = tuple(str(text) for text in trials.rows("cue"))
    if len(texts) != ends.sum():
        raise BadInput(
            f"has {ends.sum()} stretches of bins and {len(texts)} trials; expected one each"
        )
    return counts.astype(np.uint8), ends, texts

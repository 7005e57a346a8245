"""Trials of a file as the benchmark's tensors: train_input, eval_input and eval_target.

    train_input   train_spikes_heldin, train_spikes_heldout, both also _forward, train_behavior
    eval_input    eval_spikes_heldin, and eval_spikes_heldout but for test trials
    eval_target   DATASET/eval_spikes_heldout, eval_spikes_*_forward, train_behavior, eval_behavior,
                  decode masks, PSTHs with the trials of their conditions

Spikes are counts, (trials, bins, units) float32, NaN where not observed. Trials are in the order
of the file. In the phase val models are trained on train trials and scored on val trials; in the
phase test they see train and val trials, and the held-out spikes of test trials are nobody's.

Source: nlb_tools 0.0.4 (make_tensors, nwb_interface), whose arrays these are.
"""

from collections.abc import Sequence

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.nlb.nlb_datasets import Dataset, check_bin
from ndt3_dist.tasks.nlb.nlb_psth import psths
from ndt3_dist.tasks.nlb.nlb_session import HELDIN, HELDOUT, NlbSession

Tensors = dict[str, np.ndarray]
PHASES = {"val": (("train",), "val"), "test": (("train", "val"), "test")}
"""Splits of the trials that a model sees, and the one that it is scored on."""


class Windows:
    """The windows of some trials.

    Attributes:
        rows: Rows of the table of trials.
        moved: Bins that each was moved behind its alignment.
        first: First bin of each, counted from 0 s.
    """

    def __init__(self, session: NlbSession, dataset: Dataset, splits: Sequence[str], bin_ms: int):
        self.session, self.dataset, self.bin_ms = session, dataset, bin_ms
        trials = session.trials
        aligned = trials[dataset.align] >= 0
        self.rows = np.flatnonzero(np.isin(session.splits, splits) & aligned)
        if not len(self.rows):
            kinds = ", ".join(sorted({*map(str, session.splits)}))
            raise BadInput(
                f"{session.path}: no {' or '.join(splits)} trial with a {dataset.align}; its "
                f"trials are {kinds}"
            )
        moves = jitter(trials, self.rows, dataset, bin_ms)
        self.rows, self.moved = self.rows[moves >= 0], moves[moves >= 0]
        self.first = self.at(dataset.window_ms[0]) + self.moved

    def at(self, offset_ms: int) -> np.ndarray:
        """First bin that begins no earlier than so long from the alignment, (trials,)."""
        return first_bin(self.session.trials[self.dataset.align][self.rows], offset_ms, self.bin_ms)

    def counts(self, kind: int, forward: bool = False) -> np.ndarray:
        bins = self.dataset.bins(self.bin_ms)
        if forward:
            more = self.dataset.forward_bins(self.bin_ms)
            return self.session.counts(kind, self.first + bins, more, self.bin_ms)
        return self.session.counts(kind, self.first, bins, self.bin_ms)

    def heldout(self) -> np.ndarray:
        """Held-out spikes, NaN in bins that are not scored."""
        found = self.counts(HELDOUT)
        if self.dataset.scored:
            low, high = (
                first_bin(self.session.trials[name][self.rows], 0, self.bin_ms)
                for name in self.dataset.scored
            )
            bins = self.first[:, None] + np.arange(found.shape[1])
            found[(bins < low[:, None]) | (bins >= high[:, None])] = np.nan
        return found

    def behavior(self, binned: np.ndarray | None, overlaps: bool) -> np.ndarray:
        """The lagged velocity (trials, bins, dims), or columns of the trials (trials, columns).

        Args:
            binned: `NlbSession.velocity_of`.
            overlaps: Whether a window may reach into that of the next trial.
        """
        trials, dataset = self.session.trials, self.dataset
        if dataset.columns:
            found = [np.asarray(trials[c], np.float64)[self.rows] for c in dataset.columns]
            values = np.column_stack(found)
            values[np.asarray(trials["is_outlier"])[self.rows] != 0] = np.nan
            return values
        assert binned is not None
        first, bins = self.at(dataset.window_ms[0] + dataset.lag_ms), dataset.bins(self.bin_ms)
        where = first[:, None] + np.arange(bins)
        padded = np.concatenate([binned, np.full((1, binned.shape[1]), np.nan)])
        values = padded[np.where((where >= 0) & (where < len(binned)), where, len(binned))]
        if not overlaps:
            values[where >= self._bounds()[:, None]] = np.nan
        return values

    def _bounds(self) -> np.ndarray:
        """First bin behind each trial's lagged window, where the next window or trial begins."""
        trials, dataset = self.session.trials, self.dataset
        ns = trials[dataset.align][self.rows]
        start = ns + (dataset.window_ms[0] + dataset.lag_ms) * 1_000_000
        stop = ns + (dataset.window_ms[1] + dataset.lag_ms) * 1_000_000
        every = np.append(trials["start_time"][1:], np.iinfo(np.int64).max)
        begins = np.minimum(every[self.rows], start)
        bound = np.append(begins[1:], np.iinfo(np.int64).max)
        ends = np.where(stop > bound, bound, stop)
        return -(-ends // (self.bin_ms * 1_000_000))


def first_bin(ns: np.ndarray, offset_ms: int, bin_ms: int) -> np.ndarray:
    return -(-(ns + offset_ms * 1_000_000) // (bin_ms * 1_000_000))


def jitter(
    trials: dict[str, np.ndarray], rows: np.ndarray, dataset: Dataset, bin_ms: int
) -> np.ndarray:
    """Bins by which windows are moved behind their alignment, (trials,); -1 where it is not known.

    Drawn as the benchmark draws it: numpy's first generator, seed 0, in the order of the trials.
    """
    if not dataset.jitter_ms:
        return np.zeros(len(rows), np.int64)
    room = np.full(len(rows), np.nan)
    if "tp" in trials:
        room = np.clip(1500.0 - np.asarray(trials["tp"], np.float64)[rows], 0, dataset.jitter_ms)
    room[trials["split"][rows] == "test"] = 0
    most = np.floor(np.round(room / bin_ms, 4))
    drawn = np.round(np.random.RandomState(0).random_sample(len(rows)) * most)
    return np.where(np.isnan(drawn), -1, drawn).astype(np.int64)


def train_input(session: NlbSession, dataset: Dataset, bin_ms: int, phase: str = "val") -> Tensors:
    """What models are trained on, forward spikes and behaviour included."""
    windows = Windows(session, dataset, PHASES[phase][0], bin_ms)
    binned = _velocity(session, dataset, bin_ms)
    found = {}
    for name, kind in (("heldin", HELDIN), ("heldout", HELDOUT)):
        found[f"train_spikes_{name}"] = windows.counts(kind)
        found[f"train_spikes_{name}_forward"] = windows.counts(kind, forward=True)
    return {**found, "train_behavior": windows.behavior(binned, dataset.overlaps)}


def eval_input(session: NlbSession, dataset: Dataset, bin_ms: int, phase: str = "val") -> Tensors:
    """What models are given of the trials that they are scored on."""
    split = PHASES[phase][1]
    windows = Windows(session, dataset, (split,), bin_ms)
    found = {"eval_spikes_heldin": windows.counts(HELDIN)}
    if split != "test":
        found["eval_spikes_heldout"] = windows.counts(HELDOUT)
    return found


def eval_target(session: NlbSession, dataset: Dataset, bin_ms: int) -> dict[str, dict]:
    """What models of the phase val are scored by."""
    check_bin(bin_ms)
    train = Windows(session, dataset, ("train",), bin_ms)
    scored = Windows(session, dataset, ("val",), bin_ms)
    binned, overlaps = _velocity(session, dataset, bin_ms), dataset.target_overlaps
    found: dict = {
        "eval_spikes_heldout": scored.heldout(),
        "train_behavior": train.behavior(binned, overlaps),
        "eval_behavior": scored.behavior(binned, overlaps),
        "eval_spikes_heldin_forward": scored.counts(HELDIN, forward=True),
        "eval_spikes_heldout_forward": scored.counts(HELDOUT, forward=True),
    }
    for name, windows in (("train", train), ("eval", scored)):
        if dataset.decoders:
            column = np.asarray(session.trials[dataset.decoders])[windows.rows]
            found[f"{name}_decode_mask"] = np.column_stack([column == 0, column == 1])
        if dataset.jitter_ms:
            found[f"{name}_jitter"] = windows.moved
    if dataset.conditions:
        made, of_train, of_eval = psths(session, dataset, bin_ms, train.rows, scored.rows)
        found |= {"psth": made, "train_cond_idx": of_train, "eval_cond_idx": of_eval}
    return {dataset.key(bin_ms): found}


def _velocity(session: NlbSession, dataset: Dataset, bin_ms: int) -> np.ndarray | None:
    if not dataset.behavior:
        return None
    if session.velocity is None:
        raise BadInput(
            f"{session.path}: no series {dataset.behavior}; expected the file with train trials, "
            "which has behaviour"
        )
    return session.velocity_of(bin_ms)

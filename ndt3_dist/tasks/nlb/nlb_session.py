"""An NWB file of the benchmark: spikes of held-in and held-out units, trials, velocity.

Times are those of the benchmark's own tools: whole milliseconds from 0, a spike in the one that its
time lies in; a bin is of so many of them and begins at a multiple of its length. A bin is observed
where its first millisecond lies in the `obs_intervals` of the first unit of its kind.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.nwb.nwb_file import NwbFile, Table, open_nwb
from ndt3_dist.readers.nwb.nwb_units import of_each, ragged
from ndt3_dist.tasks.nlb.nlb_datasets import SPLITS, Dataset

HELDIN, HELDOUT = 0, 1
"""Kinds of units."""


@dataclass
class NlbSession:
    """What the benchmark takes from a file.

    Attributes:
        path: Of the file.
        spikes: Of each kind: of each unit the milliseconds of its spikes, ascending.
        observed: Of each kind: stretches [first, last + 1) in ms, (stretches, 2), none touching.
        trials: Columns of the trials by name, each (trials,); times in ns, -1 where there is none.
        velocity_ms, velocity: Milliseconds of the samples, (samples,), and values (samples, dims);
            None where the file has no velocity.
    """

    path: Path
    spikes: tuple[list[np.ndarray], list[np.ndarray]]
    observed: tuple[np.ndarray, np.ndarray]
    trials: dict[str, np.ndarray]
    velocity_ms: np.ndarray | None = None
    velocity: np.ndarray | None = None

    @property
    def splits(self) -> np.ndarray:
        return self.trials["split"]

    def counts(self, kind: int, first: np.ndarray, bins: int, bin_ms: int) -> np.ndarray:
        """Spikes in windows, (windows, bins, units) float32, NaN where not observed.

        Args:
            first: First bin of each window, counted from 0 s.
        """
        units = self.spikes[kind]
        found = np.zeros((len(first), bins, len(units)), np.float32)
        for unit, times in enumerate(units):
            of_bins = times // bin_ms
            low, high = of_bins.searchsorted(first), of_bins.searchsorted(first + bins)
            window = np.repeat(np.arange(len(first)), high - low)
            ends = np.cumsum(high - low)
            spike = np.arange(len(window)) - np.repeat(ends - (high - low) - low, high - low)
            where = of_bins[spike] - first[window]
            found[:, :, unit] = np.bincount(
                window * bins + where, minlength=len(first) * bins
            ).reshape(len(first), bins)
        begins = (first[:, None] + np.arange(bins)) * bin_ms
        found[~inside(self.observed[kind], begins)] = np.nan
        return found

    def velocity_of(self, bin_ms: int) -> np.ndarray:
        """The velocity of the whole file in bins from 0 s, (bins, dims), NaN where it has none.

        As scipy's decimate with a filter of 501 taps makes it, gaps bridged by lines meanwhile.
        """
        from scipy.signal import decimate

        assert self.velocity_ms is not None
        assert self.velocity is not None
        length = int(self.velocity_ms[-1]) + 1
        length = max(length, int(max(spans.max(initial=0) for spans in self.observed)))
        valid = np.zeros(length, bool)
        valid[self.velocity_ms] = np.isfinite(self.velocity).all(axis=1)
        known = np.flatnonzero(valid)
        ok = np.isfinite(self.velocity).all(axis=1)
        whole = np.column_stack(
            [np.interp(np.arange(length), known, column[ok]) for column in self.velocity.T]
        )
        binned = decimate(whole, bin_ms, n=500, ftype="fir", axis=0)
        binned[~valid[::bin_ms]] = np.nan
        return binned


def inside(spans: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Whether milliseconds lie in stretches, in the shape of `ms`."""
    if not len(spans):
        return np.zeros(ms.shape, bool)
    at = spans[:, 0].searchsorted(ms, "right") - 1
    return (at >= 0) & (ms < spans[np.maximum(at, 0), 1])


def read_session(path: str | Path, dataset: Dataset) -> NlbSession:
    """Read a file of a dataset.

    Raises:
        BadInput: It is no NWB file of the benchmark's structure; names what is missing.
    """
    path = Path(path)
    with open_nwb(path) as nwb:
        units, trials = nwb.units, nwb.table("intervals/trials")
        if units is None or trials is None:
            lost = "units" if units is None else "intervals/trials"
            raise BadInput(f"no table {lost}; expected a file of {dataset.name} from DANDI")
        for table, needed in ((units, "heldout"), (units, "obs_intervals"), (trials, "split")):
            if needed not in table.colnames:
                raise BadInput(
                    f"{table.path} has no column {needed}; expected a file of DANDI "
                    f"{dataset.dandiset}, which has it"
                )
        heldout = units.rows("heldout").astype(bool)
        spikes, observed = _units(units, heldout)
        columns = _trials(trials, dataset)
        found = NlbSession(path, spikes, observed, columns)
        if dataset.behavior and nwb.series(dataset.behavior) is not None:
            found.velocity_ms, found.velocity = _velocity(nwb, dataset.behavior)
    return found


def _units(units: Table, heldout: np.ndarray):
    times, ends = ragged(units, "spike_times")
    each = [np.sort(t) for t in np.split(times, ends[:-1])]
    ms = [np.floor(np.round(t * 1000, 6)).astype(np.int64) for t in each]
    of_units = [*of_each(units, units.numbers("obs_intervals").reshape(-1, 2))]
    spikes, observed = ([], []), []
    for unit, kind in enumerate(heldout.astype(int)):
        spikes[kind].append(ms[unit])
    for kind in (HELDIN, HELDOUT):
        chosen = np.flatnonzero(heldout == bool(kind))
        own = of_units[chosen[0]] if len(chosen) else np.zeros((0, 2))
        edges = np.round(own * 1000, 6)
        observed.append(merged(np.ceil(edges[:, 0]), np.floor(edges[:, 1])))
    if not spikes[HELDIN]:
        raise BadInput("units/heldout is true of all units; expected held-in ones, too")
    return spikes, (observed[0], observed[1])


def merged(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Stretches [first, last) in order, those that touch as one, (stretches, 2) int64."""
    order, found = np.argsort(first, kind="stable"), []
    for a, b in zip(first[order].astype(int), last[order].astype(int), strict=True):
        if found and a <= found[-1][1]:
            found[-1][1] = max(found[-1][1], b)
        elif a < b:
            found.append([a, b])
    return np.array(found, np.int64).reshape(-1, 2)


def _trials(table: Table, dataset: Dataset) -> dict[str, np.ndarray]:
    """Columns with one value a trial; times in ns."""
    found = {}
    for name in table.colnames:
        if table.is_ragged(name) or table.shape(name)[1:]:
            continue
        values = table.rows(name)
        if name.endswith("_time"):
            times = np.asarray(values, np.float64)
            known = np.isfinite(times)
            values = np.where(known, np.round(np.where(known, times, 0) * 1e9), -1).astype(np.int64)
        found[name] = values
    needed = {"start_time", dataset.align, *(dataset.scored or ())}
    if lost := sorted(needed - found.keys()):
        raise BadInput(
            f"intervals/trials has no {', '.join(lost)}, which windows of {dataset.name} are "
            "aligned to; is it a file of another dataset?"
        )
    found["split"] = np.array([str(s) for s in found["split"]], object)
    if not {*found["split"]} & {*SPLITS}:
        kinds = ", ".join(sorted({*found["split"]})[:5])
        raise BadInput(f"intervals/trials/split holds {kinds}; expected {', '.join(SPLITS)}")
    return found


def _velocity(nwb: NwbFile, path: str) -> tuple[np.ndarray, np.ndarray]:
    series = nwb.series(path)
    assert series is not None
    values, times = series.data().astype(np.float64), series.timestamps()
    if times is None:
        times = series.starting_time + np.arange(len(values)) / (series.rate or 1000.0)
    ms = np.round(times * 1000, 3)
    if len(ms) != len(values) or (ms != np.round(ms)).any() or (np.diff(ms) <= 0).any():
        raise BadInput(
            f"{path}: its samples do not lie on whole milliseconds in ascending order; expected "
            "1 kHz as the benchmark's files have it"
        )
    return ms.astype(np.int64), values.reshape(len(values), -1)

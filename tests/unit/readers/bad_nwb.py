"""What NWB recordings are refused for: a table of (what is done to a good file, words, recipe).

The good file has 4 channels of 120 spikes on electrodes of M1 and a velocity of 1,200 samples at
100 Hz (`nwb_files.write_session`). Every row is read alone; those without a recipe of their own are
prepared together, too (`test_bad_recordings.py`).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VELOCITY = "processing/behavior/Velocity/cursor_vel"
ELECTRODES = "general/extracellular_ephys/electrodes"
TIMES = "units/spike_times"
COUNTS = "acquisition/binned_spikes"


def replace(name: str, data, **attributes):
    """Puts something else in a dataset's place."""

    def change(f: h5py.File) -> None:
        kept = dict(f[name].attrs) | attributes
        del f[name]
        f[name] = data
        for key, value in kept.items():
            f[name].attrs[key] = value

    return change


def edit(name: str, where, value):
    def change(f: h5py.File) -> None:
        f[name][where] = value

    return change


def scale(factor: float, shift: float = 0.0):
    def change(f: h5py.File) -> None:
        f[TIMES][...] = f[TIMES][()] * factor + shift

    return change


def delete(*names: str):
    def change(f: h5py.File) -> None:
        for name in names:
            del f[name]

    return change


def attribute(name: str, key: str, value):
    def change(f: h5py.File) -> None:
        f[name].attrs[key] = value

    return change


def stamps(times):
    def change(f: h5py.File) -> None:
        del f[f"{VELOCITY}/starting_time"]
        f[f"{VELOCITY}/timestamps"] = times

    return change


def clock_with(at, value):
    times = np.arange(1200) / 100
    times[at] = value
    return stamps(times)


def burst(f: h5py.File) -> None:
    f[TIMES][:120] = np.linspace(1.001, 1.002, 120)
    del f["units/spike_times_index"]
    f["units/spike_times_index"] = np.array([480, 480, 480, 480])
    f[TIMES][:300] = np.sort(np.linspace(1.001, 1.009, 300))
    f[TIMES][300:] = np.linspace(1.01, 11, 180)


def put(name: str, make):
    def change(f: h5py.File) -> None:
        if name in f:
            del f[name]
        make(f, name)

    return change


def virtual(f: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((480,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (480,))
    f.create_virtual_dataset(name, layout)


def observed(spans):
    """Gives each unit these stretches."""

    def change(f: h5py.File) -> None:
        names = ["spike_times", "electrodes", "obs_intervals"]
        attribute("units", "colnames", names)(f)
        f["units"].create_dataset("obs_intervals", data=np.array(spans * 4, float))

    return change


def add_series(path: str, data, **clock):
    """Adds a series: rate=, or timestamps=."""

    def change(f: h5py.File) -> None:
        group = f.create_group(path)
        group.attrs["neurodata_type"] = "TimeSeries"
        group["data"] = data
        if "timestamps" in clock:
            group["timestamps"] = clock["timestamps"]
            return
        group["starting_time"] = 0.0
        group["starting_time"].attrs["rate"] = clock["rate"]

    return change


def add_trials(f: h5py.File) -> None:
    """Four trials of 3 s with their result."""
    group = f.create_group("intervals/trials")
    group.attrs["colnames"] = ["start_time", "stop_time", "result"]
    group["id"], group["start_time"] = np.arange(4), np.arange(4) * 3.0
    group["stop_time"] = np.arange(4) * 3.0 + 2
    group["result"] = ["R", "F", "R", "A"]


def both(*changes):
    """One after the other."""

    def change(f: h5py.File) -> None:
        for one in changes:
            one(f)

    return change


def declares(*shape: int):
    """Samples of which no chunk is written: the file stays small."""
    return put(
        f"{VELOCITY}/data",
        lambda f, n: f.create_dataset(n, shape, "f8", chunks=True, fillvalue=0.0),
    )


KINDS: dict[str, tuple] = {
    "nwb_1": (attribute("/", "nwb_version", "1.0.5"), "NWB 1.0.5); expected NWB 2"),
    "nwb_1_as_it_was_written": (
        lambda f: (
            f.attrs.__delitem__("nwb_version"),
            f.__setitem__("nwb_version", "NWB-1.0.5"),
            f.__setitem__("acquisition/raw", h5py.ExternalLink("raw.h5", "/x")),
        ),
        "(NWB 1.0.5); expected NWB 2",
    ),
    "no_version": (lambda f: f.attrs.__delitem__("nwb_version"), "no nwb_version"),
    "no_units": (delete("units"), "no units with spike times"),
    "no_spike_times": (delete(TIMES), "no units with spike times"),
    "no_index": (delete("units/spike_times_index"), "no index for 4 units"),
    "references_as_names": (
        put(
            f"{ELECTRODES}/group_name",
            lambda f, n: f.create_dataset(n, (4,), h5py.ref_dtype),
        ),
        "electrodes/group_name holds references",
    ),
    "day_of_thousands_of_channels": (
        lambda f: (
            delete("processing/behavior/Velocity/cursor_vel/data")(f),
            f.create_dataset(
                f"{VELOCITY}/data", data=np.zeros((8_000_000, 1), "i1"), compression=9
            ),
            attribute(f"{VELOCITY}/starting_time", "rate", 100.0)(f),
        ),
        "at rate 100 last 80000 s",
    ),
    "no_ids": (delete("units/id"), "units has no ids"),
    "zero_units": (replace("units/id", np.zeros(0, int)), "no units with spike times"),
    "zero_spikes": (
        lambda f: (
            replace(TIMES, np.zeros(0))(f),
            replace("units/spike_times_index", np.zeros(4, np.uint8))(f),
        ),
        "zero spikes",
    ),
    "nan_spike": (edit(TIMES, 7, np.nan), "unit 0 has 1 spike times that are NaN"),
    "infinite_spike": (edit(TIMES, 119, np.inf), "unit 0 has 1 spike times that are NaN or inf"),
    "unsorted_spikes": (
        edit(TIMES, 10, 11.0),
        "unit 0 has unsorted spike times (11.0000 s before",
    ),
    "spikes_in_ms": (
        scale(1000),
        "channel 0 has 120 of 120 spikes outside the recording (0.000 to",
    ),
    "spikes_of_another_clock": (scale(1, 1.6e9), "spikes outside the recording"),
    "text_as_times": (replace(TIMES, ["x"] * 480), "units/spike_times"),
    "complex_times": (replace(TIMES, np.zeros(480, complex)), "units/spike_times"),
    "references_as_times": (
        put(TIMES, lambda f, n: f.create_dataset(n, (480,), h5py.ref_dtype)),
        "units/spike_times",
    ),
    "times_in_two_dimensions": (replace(TIMES, np.zeros((240, 2))), "units/spike_times"),
    "one_number_as_times": (replace(TIMES, 1.0), "units/spike_times"),
    "index_turns_back": (edit("units/spike_times_index", 1, 5), "units/spike_times_index"),
    "index_ends_late": (edit("units/spike_times_index", 3, 255), "units/spike_times_index"),
    "index_is_short": (
        replace("units/spike_times_index", np.array([120, 240])),
        "units/spike_times_index",
    ),
    "index_is_negative": (
        replace("units/spike_times_index", np.array([-1, 120, 240, 480])),
        "units/spike_times_index",
    ),
    "burst": (burst, "spikes in the bin at"),
    "electrode_out_of_table": (edit("units/electrodes", 2, 99), "unit 2 names no electrode"),
    "negative_electrode": (edit("units/electrodes", 1, -1), "unit 1 names no electrode"),
    "no_electrodes_table": (delete(ELECTRODES), "no electrodes table"),
    "no_group_names": (delete(f"{ELECTRODES}/group_name"), "no electrodes table with group names"),
    "short_group_names": (
        replace(f"{ELECTRODES}/group_name", ["M1"]),
        "electrodes/group_name has shape (1,), the table 4 rows",
    ),
    "observed_nan": (
        observed([(0.0, np.nan)]),
        "obs_intervals that are empty, NaN or infinite; expected times in seconds",
    ),
    "no_covariates": (delete("processing/behavior/Velocity"), f"no covariates at {VELOCITY}"),
    "no_data": (delete(f"{VELOCITY}/data"), "cursor_vel is a TimeSeries without data"),
    "no_samples": (replace(f"{VELOCITY}/data", np.zeros((0, 2))), "has no samples"),
    "text_as_samples": (replace(f"{VELOCITY}/data", ["x"] * 1200), f"{VELOCITY}/data"),
    "one_sample": (replace(f"{VELOCITY}/data", 3.0), f"{VELOCITY}/data"),
    "conversion_is_text": (attribute(f"{VELOCITY}/data", "conversion", "cm"), "conversion"),
    "no_clock": (delete(f"{VELOCITY}/starting_time"), "neither timestamps nor a rate"),
    "rate_zero": (attribute(f"{VELOCITY}/starting_time", "rate", 0.0), "rate above 0 (found 0"),
    "rate_nan": (attribute(f"{VELOCITY}/starting_time", "rate", np.nan), "rate above 0 (found nan"),
    "rate_negative": (attribute(f"{VELOCITY}/starting_time", "rate", -100.0), "rate above 0"),
    "rate_is_period": (attribute(f"{VELOCITY}/starting_time", "rate", 0.01), "rate_is_period=true"),
    "start_nan": (edit(f"{VELOCITY}/starting_time", (), np.nan), "1200 of 1200 are NaN"),
    "start_of_another_clock": (
        edit(f"{VELOCITY}/starting_time", (), 1.6e9),
        "spikes outside the recording",
    ),
    "times_missing": (stamps(np.arange(600) / 100), "600 times, 1200 samples"),
    "times_turn_back": (clock_with(700, 2.0), "timestamps are not strictly ascending"),
    "times_nan": (clock_with(700, np.nan), "timestamps: 1 of 1200 are NaN or infinite"),
    "times_in_ms": (stamps(np.arange(1200) * 10.0), "its timestamps span 11990 s"),
    "times_are_text": (stamps(["now"] * 1200), f"{VELOCITY}/timestamps"),
    "too_short": (
        lambda f: (
            replace(f"{VELOCITY}/data", np.ones((50, 2)))(f),
            replace(TIMES, np.linspace(0, 0.4, 480))(f),
        ),
        "shorter than a window",
    ),
    "external_link": (
        put(TIMES, lambda f, n: f.__setitem__(n, h5py.ExternalLink("other.h5", "/x"))),
        "units/spike_times is an external link",
    ),
    "external_data": (
        put(TIMES, lambda f, n: f.create_dataset(n, (480,), "f8", external="other.bin")),
        "units/spike_times keeps its data in another file",
    ),
    "virtual_data": (put(TIMES, virtual), "units/spike_times keeps its data in another file"),
    "link_to_itself": (
        put(TIMES, lambda f, n: f.__setitem__(n, h5py.SoftLink(f"/{n}"))),
        "units/spike_times is a link that leads nowhere",
    ),
    "huge": (
        put(TIMES, lambda f, n: f.create_dataset(n, (1 << 40,), "f8", chunks=True)),
        "units/spike_times declares 8796.1 GB",
    ),
    "huge_samples": (declares(1 << 40), f"{VELOCITY}/data declares"),
    "huge_in_two_dimensions": (declares(1 << 20, 1 << 20), f"{VELOCITY}/data declares"),
}
"""Name -> what is done to a good file, and what must be said of it."""

ALONE = {"covariates": {"path": ""}}
"""Recipe for spikes without covariates."""


def counts_of(bad=None, **keys) -> tuple:
    """A file with counts, one of which is bad, and the recipe that reads them."""
    counts = np.ones((600, 3))
    if bad is not None:
        counts[7, 1] = bad
    recipe = {"spikes": {"kind": "counts", "path": COUNTS}, **(keys or ALONE)}
    return add_series(COUNTS, counts, rate=50.0), recipe


def with_recipe(made: tuple, words: str) -> tuple:
    return made[0], words, made[1]


def out_of_step(f: h5py.File) -> None:
    stamps = np.arange(400) * 0.02 + 0.51 * (np.arange(400) >= 200)
    add_series(COUNTS, np.ones((400, 2)), timestamps=stamps)(f)


def valid(**rule) -> dict[str, Any]:
    return {"validity": rule}


SHORT = add_series("processing/behavior/short", np.zeros(5, int), rate=50.0)
KINDS_BY_RECIPE: dict[str, tuple] = {
    "ms_without_covariates": (scale(1e5), "seems to last 332 h", ALONE),
    "observed_in_ms": (observed([(0.0, 6e5)]), "seems to last 167 h", ALONE),
    "units_without_electrodes": (
        both(
            delete("units/electrodes"),
            attribute("units", "colnames", ["spike_times"]),
        ),
        "its units have no electrodes; use spikes.channels=unit",
        {"spikes": {"channels": "electrode"}},
    ),
    "no_such_series": (
        None,
        "no covariates at processing/behavior/Velocity/hand: processing/behavior/Velocity has "
        "cursor_vel",
        {"covariates": {"path": "processing/behavior/Velocity/hand"}},
    ),
    "no_such_container": (
        None,
        "no covariates at processing/behavior/Speed: processing/behavior has Velocity",
        {"covariates": {"path": "processing/behavior/Speed"}},
    ),
    "no_such_module": (
        None,
        "no covariates at processing/motion: processing has behavior",
        {"covariates": {"path": "processing/motion"}},
    ),
    "no_place_for_series": (
        None,
        "no covariates at units: the file has acquisition, processing",
        {"covariates": {"path": "units"}},
    ),
    "below_a_series": (
        None,
        f"no covariates at {VELOCITY}/data: {VELOCITY} has nothing",
        {"covariates": {"path": f"{VELOCITY}/data"}},
    ),
    "above_a_series": (
        None,
        "without data; expected a TimeSeries",
        {"covariates": {"path": "processing/behavior/Velocity"}},
    ),
    "no_series_of_all": (
        None,
        "no series at acquisition/*: acquisition has none",
        {"covariates": {"path": "acquisition/*"}},
    ),
    "no_such_column": (
        None,
        f"covariates.columns [3]: {VELOCITY} has 2 dimensions",
        {"covariates": {"path": VELOCITY, "columns": [3]}},
    ),
    "too_many_names": (
        None,
        "covariates.names has 3 names for 2 dimensions",
        {"covariates": {"path": VELOCITY, "names": ["a", "b", "c"]}},
    ),
    "no_such_table": (
        add_trials,
        "no intervals 'laps'; the file has trials",
        valid(table="laps"),
    ),
    "no_such_table_column": (
        add_trials,
        "trials has no column 'begin'; it has start_time, stop_time, result",
        valid(table="trials", start="begin"),
    ),
    "no_such_value": (
        add_trials,
        "no row of trials has result x; found A, F, R",
        valid(table="trials", column="result", values=["x"]),
    ),
    "no_mask": (None, "cursor_vel is no mask", valid(mask=VELOCITY)),
    "no_such_mask": (
        None,
        "no mask at acquisition/m: acquisition has nothing",
        valid(mask="acquisition/m"),
    ),
    "short_mask": (
        SHORT,
        "short has 5 samples, the covariates 1200",
        valid(mask="processing/behavior/short", clock="covariates"),
    ),
    "nowhere_valid": (SHORT, "is nowhere valid", valid(mask="processing/behavior/short")),
    "no_such_counts": (
        None,
        "no counts at acquisition/c: acquisition has nothing",
        {"spikes": {"kind": "counts", "path": "acquisition/c"}},
    ),
    **{
        f"count_{bad}": with_recipe(
            counts_of(bad), f"binned_spikes has {bad:g} in bin 7, channel 1; expected counts"
        )
        for bad in (-1.0, 0.5, np.nan)
    },
    "count_300": with_recipe(counts_of(300), "has 300 spikes in bin 7, channel 1; at most 255 fit"),
    "counts_out_of_step": (
        out_of_step,
        "binned_spikes: bins are up to 10.0 ms out of step",
        {"spikes": {"kind": "counts", "path": COUNTS}},
    ),
    "events_of_unknown_channels": (
        add_series("acquisition/e", np.array([9, 1]), timestamps=[0.5, 1.0]),
        "acquisition/e has events of channel 9, which is none of its 4 channels",
        {"spikes": {"kind": "events", "path": "acquisition/e"}},
    ),
}
"""The same for what only a recipe asks for: (change or None, words, keys of the recipe)."""


def whole_files(good: bytes) -> dict[str, tuple[bytes, str]]:
    """The same for files that are no NWB files to begin with."""
    return {
        "empty": (b"", "not an NWB file (an empty file; copy or download it again)"),
        "git_lfs": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "(a Git LFS pointer, not the file itself; run git lfs pull)",
        ),
        "git_annex": (
            b"/annex/objects/SHA256E-s12345--4d7a.nwb\n",
            "(a pointer of git-annex, not the file itself; run git annex get)",
        ),
        "page": (
            b"\n<!DOCTYPE html>\n<html><body>Log in</body></html>\n",
            "(an HTML page: the download failed or needs a login)",
        ),
        "error_of_a_store": (b"<?xml version='1.0'?><Error/>", "(an XML page, such as a store's"),
        "text": (b"time,spikes\n" * 500, "not HDF5"),
        "archive": (b"PK\x03\x04" + bytes(5000), "not HDF5"),
        "half": (good[: len(good) // 2], "not a readable NWB file"),
        "head": (good[:96], "not a readable NWB file"),
        "zeroed": (good[:512] + bytes(len(good) - 512), "not a readable NWB file"),
    }


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as f:
        f["x"] = np.arange(4)


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "other_hdf5": (other_hdf5, "not a readable NWB file (no nwb_version); expected NWB 2"),
    "pipe": (os.mkfifo, "not a regular file"),
    "gone": (lambda p: p.symlink_to(p.parent / "nowhere.nwb"), "No such file"),
    "circle": (lambda p: p.symlink_to(p), "symbolic link"),
}
"""And for what is not even that: (what is put there, words)."""

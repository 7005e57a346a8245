"""Write a simulated session as the NWB file a lab would write: units, electrodes, trials, hand.

Input: arrays of one session and who, where and when. Output: one compressed file. Every value in
it, identifier and dates included, comes from the caller; only the object ids that pynwb draws for
itself differ between two files of the same session.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.simulate.motor_model import CLOCK_HZ


def draw_trials(position: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """Cut a session into pursuit trials of 3 to 6 s, rewarded if they end near the target.

    Args:
        position: Hand in cm at 100 Hz, shape (bins, 2).
    """
    rows, start, duration_s = [], 0.25, len(position) / 100
    while start + 1.0 < duration_s:
        stop = min(start + rng.uniform(3.0, 6.0), duration_s)
        error_cm = rng.standard_normal(2)
        target = position[int(stop * 100) - 1] + error_cm
        result = "R" if np.hypot(*error_cm) < 2.0 else "F"
        rows.append(
            {"start_time": round(start, 3), "stop_time": round(stop, 3), "target_x": target[0],
             "target_y": target[1], "result": result}
        )  # fmt: skip
        start = stop + rng.uniform(0.5, 1.5)
    return rows


def write_nwb(
    path: Path, identifier: str, start: datetime, letter: str, arrays: tuple, duration_s: float,
    electrode: np.ndarray, times: np.ndarray, ends: np.ndarray, velocity: np.ndarray,
    position: np.ndarray, trials: list[dict],
) -> None:  # fmt: skip
    """Write one session with pynwb, compressed."""
    from hdmf.common import DynamicTableRegion, VectorData, VectorIndex
    from pynwb import NWBHDF5IO, H5DataIO, NWBFile, TimeSeries
    from pynwb.behavior import BehavioralTimeSeries
    from pynwb.file import Subject
    from pynwb.misc import Units

    def packed(array: np.ndarray) -> H5DataIO:
        return H5DataIO(data=array, compression="gzip", compression_opts=4, shuffle=True)

    nwb: Any = NWBFile(  # Any: pynwb makes its methods at run time
        session_description="SIMULATED recording: random pursuit tracking with one hand",
        identifier=identifier,
        session_start_time=start,
        file_create_date=[start],
        session_id=path.stem.rpartition("ses-")[2],
        experiment_description="Simulated data; no animal was recorded",
        subject=Subject(
            subject_id=letter, species="Macaca mulatta", sex="U", age="P7Y", description="simulated"
        ),
    )
    device = nwb.create_device(name="Utah array", description="simulated multielectrode array")
    for column in ("target_x", "target_y"):
        nwb.add_trial_column(name=column, description="at the end of the trial, in cm")
    nwb.add_trial_column(name="result", description="R: rewarded, F: failed")
    for row in trials:
        nwb.add_trial(**row)
    for name, num_channels in arrays:
        group = nwb.create_electrode_group(
            name=name, description=f"array in {name}", location=name, device=device
        )
        for _ in range(num_channels):
            nwb.add_electrode(group=group, location=name)

    # Columns are built whole: adding units one by one copies every spike through a list.
    num_units = len(ends)
    one_each = np.arange(1, num_units + 1)
    spikes = VectorData(name="spike_times", description="in s", data=packed(times))
    intervals = VectorData(
        name="obs_intervals", description="in s", data=np.tile([0.0, duration_s], (num_units, 1))
    )
    region = DynamicTableRegion(
        name="electrodes", description="row of the unit", data=electrode, table=nwb.electrodes
    )
    columns = [
        VectorIndex(name="spike_times_index", data=ends, target=spikes), spikes,
        VectorIndex(name="obs_intervals_index", data=one_each, target=intervals), intervals,
        VectorIndex(name="electrodes_index", data=one_each, target=region), region,
    ]  # fmt: skip
    nwb.units = Units(
        name="units",
        description="sorted units",
        id=np.arange(num_units),
        columns=columns,
        colnames=["spike_times", "obs_intervals", "electrodes"],
        resolution=1 / CLOCK_HZ,
    )
    behavior = nwb.create_processing_module(name="behavior", description="hand kinematics")
    for container, series, data, unit in (
        ("Velocity", "cursor_vel", velocity, "cm/s"),
        ("Position", "cursor_pos", position, "cm"),
    ):
        samples = TimeSeries(
            name=series, data=packed(data), unit=unit, starting_time=0.0, rate=100.0,
            description="x to the right, y away from the body",
        )  # fmt: skip
        behavior.add(BehavioralTimeSeries(time_series=samples, name=container))
    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(path=path, mode="w") as io:
        io.write(container=nwb)  # pyright: ignore[reportCallIssue]

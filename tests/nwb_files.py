"""Small NWB files, written with pynwb the way a lab would."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np


def write_small_nwb(
    path: Path,
    units: list,
    electrodes: list[int] | None = None,
    groups: tuple[str, ...] = ("M1",) * 4,
    observed: tuple[float, float] | None = None,
    covariates: np.ndarray | None = None,
    subject: str = "A",
    session: str | None = "01",
    **series,
) -> Path:
    """Write one recording.

    Args:
        path: Where; a folder, a Zarr store, where it ends in .zarr.
        units: Spike times of each unit in s; an empty list writes no units table.
        electrodes: Electrode row of each unit; None leaves the column out.
        groups: Electrode group (array) of each electrode row.
        observed: Observation interval of all units.
        covariates: Samples of processing/behavior/Velocity/cursor_vel, (samples, dims).
        subject: Subject id.
        session: Session id.
        series: Further arguments of its TimeSeries: rate and starting_time, or timestamps.
    """
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import BehavioralTimeSeries
    from pynwb.file import Subject

    nwb = NWBFile(
        session_description="test",
        identifier=path.stem,
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
        session_id=session,
        subject=Subject(subject_id=subject, species="Macaca mulatta", sex="U", age="P7Y"),
    )
    device = nwb.create_device(name="array")
    if electrodes is not None:
        made = {
            name: nwb.create_electrode_group(
                name=name, description=name, location=name, device=device
            )
            for name in dict.fromkeys(groups)
        }
        for name in groups:
            nwb.add_electrode(group=made[name], location=name)
    for number, times in enumerate(units):
        columns = {} if electrodes is None else {"electrodes": [electrodes[number]]}
        if observed is not None:
            columns["obs_intervals"] = [observed]
        nwb.add_unit(spike_times=np.asarray(times, np.float64), **columns)
    if covariates is not None:
        behavior = nwb.create_processing_module(name="behavior", description="hand")
        samples = TimeSeries(name="cursor_vel", data=covariates, **{"unit": "cm/s", **series})
        behavior.add(BehavioralTimeSeries(time_series=samples, name="Velocity"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zarr":
        from hdmf_zarr import NWBZarrIO

        with NWBZarrIO(path=str(path), mode="w") as io:
            io.write(nwb)
        return path
    with NWBHDF5IO(path=path, mode="w") as io:
        io.write(nwb)
    return path


def write_twin(path: Path) -> Path:
    """The same recording as a Zarr store beside it, by hdmf-zarr."""
    from hdmf_zarr import NWBZarrIO
    from pynwb import NWBHDF5IO

    twin = path.with_name(f"{path.name}.zarr")
    with NWBHDF5IO(path, "r", load_namespaces=True) as near, NWBZarrIO(str(twin), "w") as far:
        far.export(src_io=near, write_args={"link_data": False})
    return twin


def write_session(path: Path, seed: int, seconds: float = 12.0, **changes) -> Path:
    """Write an ordinary recording: 4 channels and a 100 Hz velocity."""
    rng = np.random.default_rng(seed)
    units = [np.sort(rng.uniform(0, seconds, int(seconds * 10))) for _ in range(4)]
    t = np.arange(round(seconds * 100)) / 100
    velocity = np.column_stack([10 * np.sin(t), 5 * np.cos(2 * t)])
    return write_small_nwb(
        path,
        units,
        **{
            "electrodes": [0, 1, 2, 3],
            "covariates": velocity,
            "rate": 100.0,
            "session": path.stem,
            **changes,
        },
    )

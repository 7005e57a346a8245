"""The electrode that each unit is on, where a file lists several for it.

Sorters list all electrodes of a probe, or neighbours, in channel order; where a unit is largest
stands in another column, or shows in its mean waveforms, or nowhere. Then units are channels: a
place that is not known is not made up.
"""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.nwb.nwb_file import NwbFile, Table, as_str
from ndt3_dist.readers.options import SpikesRecipe

PEAKS = (
    "max_electrode",
    "peak_electrode",
    "electrode",
    "electrode_id",
    "peak_channel_id",
    "peak_channel",
    "max_channel",
    "maximum_amplitude_channel",
    "max_on_channel",
    "extremum_channel_index",
    "extremum_channel",
    "main_channel",
    "best_channel",
    "primary_channel",
    "channel",
    "ch",
)
"""Columns in which writers say where a unit is largest, most telling first (docs/recordings.md)."""


def rows_of_units(
    nwb: NwbFile, units: Table, recipe: SpikesRecipe
) -> tuple[list[int] | None, list[str]]:
    """The row of the electrodes table that each unit is on; None where units are channels, and what
    is to be said of it.

    Raises:
        BadInput: spikes.channels is electrode and the file does not decide it; or a unit names no
            electrode of the table.
    """
    if recipe.channels == "unit":
        return None, []
    wanted = recipe.channels == "electrode"
    if "electrodes" not in units.colnames:
        if not wanted and not recipe.peak:
            return None, []
        if nwb.electrodes is None or peak_column(units, recipe) is None:
            raise BadInput(
                "its units have no electrodes; use spikes.channels=unit, or name a column in "
                "spikes.peak"
            )
        listed = [np.arange(len(nwb.electrodes))] * len(units)
    else:
        listed = electrodes_of(units, len(nwb.electrodes) if nwb.electrodes is not None else None)
    many = sum(len(rows) > 1 for rows in listed)
    if not many and not recipe.peak:
        return [int(rows[0]) for rows in listed], []
    found, how = peaks(nwb, units, recipe, listed)
    if found is not None:
        return found, [f"{many} units list several electrodes; each is on its {how}"]
    reason = f"{many} of {len(units)} units list several electrodes, and {how}"
    if wanted or recipe.peak:
        raise BadInput(f"{reason}; say spikes.peak and peak_is, or spikes.channels=unit")
    return None, [f"{reason}: units are channels"]


def electrodes_of(units: Table, electrodes: int | None) -> list[np.ndarray]:
    """Rows of the electrodes table that each unit lists."""
    rows = units.numbers("electrodes")
    if rows.ndim == 2:  # as many for each
        listed = list(rows)
    elif units.is_ragged("electrodes"):
        listed = np.split(rows, units.ends("electrodes", len(rows))[:-1])
    else:
        listed = list(rows[:, None])
    if len(listed) != len(units):
        raise BadInput(f"{units.path}/electrodes lists {len(listed)} units of {len(units)}")
    for unit, of_it in enumerate(listed):
        inside = (of_it >= 0) & (of_it < electrodes) if electrodes is not None else of_it >= 0
        if not len(of_it) or not inside.all():
            raise BadInput(f"unit {unit} names no electrode of the electrodes table")
    return [of_it.astype(int) for of_it in listed]


def peak_column(units: Table, recipe: SpikesRecipe) -> str | None:
    """The column that says where a unit is largest, None where there is none."""
    if recipe.peak and recipe.peak not in units.colnames:
        raise BadInput(
            f"spikes.peak: {units.path} has no column {recipe.peak!r}; it has "
            f"{', '.join(units.colnames)}"
        )
    known = (n for n in PEAKS if n in units.colnames and units.dtype(n).kind in "iuf")
    return recipe.peak or next(known, None)


def peaks(nwb: NwbFile, units: Table, recipe: SpikesRecipe, listed: list[np.ndarray]):
    """Row of each unit's peak, None where it is not decidable; and how, or why not."""
    name = peak_column(units, recipe)
    if name is None:
        found = largest_waveforms(units, listed)
        return (
            found,
            "largest waveform_mean" if found else "no column says where each is largest",
        )
    values = units.numbers(name)
    if values.shape != (len(units),) or not np.array_equal(values, np.round(values)):
        return None, f"{name} holds something else than one whole number a unit"
    readings = possible(nwb, values.astype(int), listed)
    is_region = as_str(units.group[name].attrs.get("neurodata_type", "")) == "DynamicTableRegion"
    if recipe.peak_is != "auto" or is_region:
        kind = recipe.peak_is if recipe.peak_is != "auto" else "row"
        return readings.get(kind), f"{name}" if kind in readings else f"{name} holds no such {kind}"
    if name.endswith("_id") and "id" in readings:
        return readings["id"], name
    if not readings:
        return None, f"{name} names none of them"
    first = next(iter(readings.values()))
    if any(other != first for other in readings.values()):
        return None, f"{name} may hold {' or '.join(f'{kind}s' for kind in readings)}"
    return first, name


def possible(nwb: NwbFile, values: np.ndarray, listed: list[np.ndarray]) -> dict[str, list[int]]:
    """Each reading of a column under which all units are on an electrode that they list: its rows.

    Args:
        values: One a unit.
    """
    found = {}
    if all(v in rows for v, rows in zip(values, listed, strict=True)):
        found["row"] = values.tolist()
    table = nwb.electrodes
    ids = {} if table is None else {int(i): row for row, i in enumerate(table.rows("id"))}
    by_id = [ids.get(v, -1) for v in values.tolist()]
    if all(row in rows for row, rows in zip(by_id, listed, strict=True)):
        found["id"] = by_id
    if all(0 <= v < len(rows) for v, rows in zip(values, listed, strict=True)):
        found["place"] = [int(rows[v]) for v, rows in zip(values, listed, strict=True)]
    return found


def largest_waveforms(units: Table, listed: list[np.ndarray]) -> list[int] | None:
    """Rows where the mean waveforms, (units, samples, electrodes), have the largest excursion."""
    if "waveform_mean" not in units.colnames or units.is_ragged("waveform_mean"):
        return None
    shape, most = units.shape("waveform_mean"), {len(rows) for rows in listed}
    if len(shape) != 3 or len(most) != 1 or shape[0] != len(units) or shape[2] != max(most):
        return None
    waveforms = units.numbers("waveform_mean")
    if not np.isfinite(waveforms).all():
        return None
    excursions = np.ptp(waveforms, axis=1)
    if not excursions.any(axis=1).all():  # a flat one is nowhere largest
        return None
    places = excursions.argmax(axis=1)
    return [int(rows[place]) for rows, place in zip(listed, places, strict=True)]

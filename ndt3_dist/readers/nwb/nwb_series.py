"""Time series of an NWB file: found by path, read with their own times, several side by side.

Times are in s and are the start of what a sample describes. A rate that contradicts the length of
the rest of the file is refused, since all that follows from it would be misplaced.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import EDGE, even_clock, stored_error
from ndt3_dist.readers.column_names import column_names, tidy
from ndt3_dist.readers.nwb.nwb_file import NwbFile, TimeSeries, as_str
from ndt3_dist.readers.options import CovariatesRecipe
from ndt3_dist.readers.repair import in_order, pairs

CONTRADICTION = 10.0
"""Series that seem to last this many times longer than all else in the file have a wrong rate."""
TIMES_AGREE = 1e-6
"""Seconds by which the times of series that lie side by side may differ."""


@dataclass
class Series:
    """Samples of a file.

    Attributes:
        times: Start of each sample in s, (samples,), strictly ascending.
        values: (samples, dims) float64, in their unit; NaN where not valid.
        period: Time from one sample to the next in s.
        names: One per dimension.
        units: One per dimension.
        error: What the distance of a sample from another time of the file may be off by, in s.
        which: Of the file's samples, (samples,) int.
        of: Samples in the file.
        left_out: Samples and times that were left out because they do not pair.
        said: What is to be said of them.
    """

    times: np.ndarray
    values: np.ndarray
    period: float
    names: tuple[str, ...]
    units: tuple[str, ...]
    error: float = 0.0
    which: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    of: int = 0
    left_out: int = 0
    said: tuple[str, ...] = ()


def read_side_by_side(nwb: NwbFile, recipe: CovariatesRecipe, file_s: float) -> list[Series]:
    """The series of a covariates recipe, before columns are chosen: those that follow each other in
    the recipe and have the same times are one.

    Args:
        recipe: Which series, and how their times are meant.
        file_s: Time in s at which the rest of the file ends, to check a rate against.
    """
    found = expand(nwb, recipe.path)
    clock = find_series(nwb, recipe.clock) if recipe.clock else None
    parts: list[Series] = []
    for item in found:
        values = read_values(item, recipe.offset_is_start)
        refuse_transposed(item, clock or item, values)
        part = read_times(clock or item, len(values), recipe, file_s)
        names = part_names(item, values.shape[1], len(found) > 1)
        values = values if len(part.which) == len(values) else values[part.which]
        said = ()
        if not item.attribute("conversion", 1.0):
            said = (f"{item.path}: its conversion of 0 is taken for 1",)
        units = (item.unit,) * len(names)
        parts.append(replace(part, values=values, names=names, units=units, said=said))
    together = [[parts[0]]]
    for part in parts[1:]:
        if agree(together[-1][0], part):
            together[-1].append(part)
        else:
            together.append([part])
    return [side_by_side(some) for some in together]


def agree(one: Series, other: Series) -> bool:
    """Whether two series have the same times."""
    if len(one.times) != len(other.times):
        return False
    apart = np.abs(one.times - other.times).max()
    return bool(apart <= max(TIMES_AGREE, one.error, other.error))


def side_by_side(parts: list[Series]) -> Series:
    """Series with the same times as one."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        left_out=max(p.left_out for p in parts),
        values=np.concatenate([p.values for p in parts], axis=1),
        names=tuple(name for p in parts for name in p.names),
        units=tuple(unit for p in parts for unit in p.units),
        said=tuple(text for p in parts for text in p.said),
    )


def part_names(item: TimeSeries, dims: int, among_others: bool) -> tuple[str, ...]:
    """Names of a series' columns: the file's own, else what its own name says (`column_names`)."""
    own = next(filter(None, (tidy(names, dims) for names in item.labels(dims))), ())
    holder, spatial = item.path.split("/")[-2], item.kind == "SpatialSeries"
    return column_names(item.name, dims, holder, spatial, own, among_others)


def read_values(item: TimeSeries, offset_is_start: bool = False) -> np.ndarray:
    """Samples in their unit, (samples, dims) float64: data x conversion x channel_conversion +
    offset. A conversion of 0 is none."""
    values = item.data().astype(np.float64, copy=False)
    if not values.size:
        raise BadInput(f"{item.path} has no samples")
    values = values.reshape(len(values), -1)
    scale = item.attribute("conversion", 1.0) or 1.0
    if (by_channel := item.channel_conversion()) is not None:
        if len(by_channel) != values.shape[1]:
            raise BadInput(
                f"{item.path}/channel_conversion has {len(by_channel)} values, the data "
                f"{values.shape[1]} channels; expected one for each"
            )
        scale = scale * by_channel
    if np.any(scale != 1):
        values *= scale
    if not offset_is_start and (offset := item.attribute("offset", 0.0)):
        values += offset
    return values


def read_times(item: TimeSeries, samples: int, recipe: CovariatesRecipe, file_s: float) -> Series:
    """The times of a series as the recipe understands the file; values and names are still out."""
    times = item.timestamps()
    if times is None:
        times, period = regular_times(item, samples, recipe, file_s)
        error = float(np.spacing(np.abs(times).max()))
    else:
        times, period, error = stamped_times(times)
    number, many = pairs(item.path, len(times), samples, recipe), max(len(times), samples)
    times = times[:number]
    which = np.flatnonzero(in_order(f"{item.path}: timestamps", times, error, recipe))
    times = times[which]
    if contradicts(lasts := float(times[-1] - times[0]), float(times[0]), period, file_s):
        raise BadInput(
            f"{item.path}: its timestamps span {lasts:.0f} s, all else in the file ends at "
            f"{file_s:.0f} s; expected seconds since the start of the session"
        )
    if recipe.stamped == "end":
        times, error = times - period, 2 * error
    nothing = np.zeros((0, 0))
    return Series(times, nothing, period, (), (), error, which, samples, many - len(times))


def refuse_transposed(item: TimeSeries, clock: TimeSeries, values: np.ndarray) -> None:
    """Raise BadInput where the second axis of the data is that of time."""
    times, (samples, dims) = clock.num_timestamps(), values.shape
    turned, by = dims == times != samples, f"{times} timestamps"
    if times is None:
        turned, by = dims > samples, "a rate"
    if turned:
        raise BadInput(
            f"{item.path} has shape {values.shape} and {by}; expected (samples, dims): it is "
            "transposed, turn its axes round in the file"
        )


def stamped_times(times: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Times, period and error of samples with timestamps; of the even clock that coarse ones were
    rounded from, where there is one."""
    error = stored_error(times)
    finite = np.isfinite(times)
    steps = np.diff(times[finite])
    period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if error > EDGE * period and (even := even_clock(times[finite], error)):
        times = times.copy()
        times[finite] = even.times
        return times, even.period, even.error
    return times, period, error


def contradicts(lasts: float, start: float, period: float, file_s: float) -> bool:
    """Whether a series lasts so much longer than the rest of its file that its clock is wrong."""
    return file_s > 0 and lasts > CONTRADICTION * max(file_s - min(start, 0.0), period)


def regular_times(item: TimeSeries, samples: int, recipe: CovariatesRecipe, file_s: float):
    """Times of a series that has a rate alone; BadInput where it contradicts the file."""
    rate = item.rate or 0.0
    if not (np.isfinite(rate) and rate > 0):
        raise BadInput(f"{item.path} has neither timestamps nor a rate above 0 (found {item.rate})")
    period = rate if recipe.rate_is_period else 1.0 / rate
    start = item.attribute("offset", 0.0) if recipe.offset_is_start else item.starting_time
    lasts = samples * period
    if contradicts(lasts, start, period, file_s):
        other = "false" if recipe.rate_is_period else "true"
        raise BadInput(
            f"{item.path}: {samples} samples at rate {rate:g} last {lasts:.0f} s, all else in the "
            f"file ends at {file_s:.0f} s; try covariates.rate_is_period={other}, or correct it"
        )
    return start + np.arange(samples) * period, period


def expand(nwb: NwbFile, path: str | list[str], what: str = "covariates") -> list[TimeSeries]:
    """Series of a recipe's path: one, several, or all of a container (NAME/*)."""
    found = []
    for one in [path] if isinstance(path, str) else path:
        if not one.endswith("/*"):
            found.append(find_series(nwb, one, what))
            continue
        above = walk(nwb, one.removesuffix("/*"), what)
        inside = sorted(nwb.children(above))
        series = [s for s in (nwb.series(f"{above}/{name}") for name in inside) if s]
        if not series:
            raise BadInput(f"no series at {one}: {above} has {', '.join(inside) or 'none'}")
        found += series
    return found


def find_series(nwb: NwbFile, path: str, what: str = "covariates") -> TimeSeries:
    """The TimeSeries at a path such as processing/behavior/Velocity/cursor_vel."""
    if series := nwb.series(path):
        return series
    kind = as_str(nwb.h5[walk(nwb, path, what)].attrs.get("neurodata_type", "group"))
    raise BadInput(f"{path} is a {kind} without data; expected a TimeSeries")


def walk(nwb: NwbFile, path: str, what: str) -> str:
    """A path without slashes at its ends; BadInput with what there is where it does not lead on."""
    walked = ""
    for part in path.strip("/").split("/"):
        known = nwb.children(walked)
        if part not in known:
            raise BadInput(
                f"no {what} at {path}: {walked or 'the file'} has "
                f"{', '.join(sorted(known)) or 'nothing'}"
            )
        walked = f"{walked}/{part}".lstrip("/")
    return walked

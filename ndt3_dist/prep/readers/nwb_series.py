"""Time series of an NWB file: found by path, read with their own times, several side by side.

Times are in s and are the start of what a sample describes. A rate that contradicts the length of
the rest of the file is refused, since all that follows from it would be misplaced.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.readers.recording import COVARIATE_NAMES
from ndt3_dist.prep.recipe import CovariatesRecipe

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
    """

    times: np.ndarray
    values: np.ndarray
    period: float
    names: tuple[str, ...]
    units: tuple[str, ...]


def read_side_by_side(nwb, recipe: CovariatesRecipe, file_s: float) -> Series:
    """The series of a covariates recipe as one, before columns are chosen.

    Args:
        nwb: The open file.
        recipe: Which series, and how their times are meant.
        file_s: Time in s at which the rest of the file ends, to check a rate against.
    """
    found = expand(nwb, recipe.path)
    clock = find_series(nwb, recipe.clock) if recipe.clock else None
    parts = []
    for path, item in found:
        values = read_values(item, path, recipe.offset_is_start)
        times, period = read_times(clock or item, recipe.clock or path, len(values), recipe, file_s)
        parts.append(Series(times, values, period, part_names(item, values, len(found) > 1), ()))
    first = parts[0]
    for (path, _), part in zip(found, parts, strict=True):
        same = len(part.times) == len(first.times)
        if not same or np.abs(part.times - first.times).max() > TIMES_AGREE:
            raise BadInput(
                f"{path} has other times than {found[0][0]}; series side by side need the same"
            )
    units = [str(i.unit) for (_, i), p in zip(found, parts, strict=True) for _ in p.names]
    return Series(
        first.times,
        np.concatenate([p.values for p in parts], axis=1),
        first.period,
        tuple(name for p in parts for name in p.names),
        tuple(units),
    )


def part_names(item, values: np.ndarray, among_others: bool) -> tuple[str, ...]:
    """Names of a series' dimensions: those of space, with the series' own among others."""
    dims = values.shape[1]
    own = COVARIATE_NAMES[:dims] if dims <= len(COVARIATE_NAMES) else ()
    own = own or tuple(f"d{d + 1}" for d in range(dims))
    if not among_others:
        return own
    return (item.name,) if dims == 1 else tuple(f"{item.name}_{n}" for n in own)


def read_values(item, path: str, offset_is_start: bool = False) -> np.ndarray:
    """Samples in their unit, (samples, dims) float64."""
    values = np.asarray(item.data, np.float64)
    if not len(values):
        raise BadInput(f"{path} has no samples")
    values = values.reshape(len(values), -1) * float(item.conversion or 1.0)
    if not offset_is_start:
        values += float(getattr(item, "offset", None) or 0.0)
    return values


def read_times(
    item, path: str, samples: int, recipe: CovariatesRecipe, file_s: float
) -> tuple[np.ndarray, float]:
    """Start of each sample and the sample period, in s, as the recipe understands the file."""
    if item.timestamps is not None:
        times = np.asarray(item.timestamps, np.float64)
        steps = np.diff(times)
        period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    else:
        times, period = regular_times(item, path, samples, recipe, file_s)
    if len(times) != samples:
        raise BadInput(f"{path}: {len(times)} times, {samples} samples")
    ascends = np.isfinite(times).all() and (np.diff(times) > 0).all()
    if not ascends and not ("repeated_times" in recipe.drop and np.isfinite(times).all()):
        raise BadInput(f"{path}: timestamps are not strictly ascending")
    return times - period * (recipe.stamped == "end"), period


def regular_times(item, path: str, samples: int, recipe: CovariatesRecipe, file_s: float):
    """Times of a series that has a rate alone; BadInput where it contradicts the file."""
    rate = float(item.rate or 0.0)
    if not (np.isfinite(rate) and rate > 0):
        raise BadInput(f"{path} has neither timestamps nor a rate above 0 (found {item.rate})")
    period = rate if recipe.rate_is_period else 1.0 / rate
    start = float(item.starting_time or 0.0)
    if recipe.offset_is_start:
        start = float(item.offset or 0.0)
    lasts = samples * period
    if lasts > CONTRADICTION * max(file_s - min(start, 0.0), period) > 0 and file_s > 0:
        other = "false" if recipe.rate_is_period else "true"
        raise BadInput(
            f"{path}: {samples} samples at rate {rate:g} last {lasts:.0f} s, all else in the file "
            f"ends at {file_s:.0f} s; try covariates.rate_is_period={other}, or correct the file"
        )
    return start + np.arange(samples) * period, period


def expand(nwb, path: str | list[str], what: str = "covariates") -> list[tuple[str, Any]]:
    """Paths and series of a recipe's path: one, several, or all of a container (NAME/*)."""
    found = []
    for one in [path] if isinstance(path, str) else path:
        if not one.endswith("/*"):
            found.append((one, find_series(nwb, one, what)))
            continue
        above = one.removesuffix("/*")
        inside = children(walk(nwb, above, what))
        names = sorted(n for n, item in inside.items() if is_series(item))
        if not names:
            raise BadInput(f"no series at {one}: {above} has {', '.join(sorted(inside)) or 'none'}")
        found += [(f"{above}/{name}", inside[name]) for name in names]
    return found


def find_series(nwb, path: str, what: str = "covariates"):
    """The TimeSeries at a path such as processing/behavior/Velocity/cursor_vel."""
    item = walk(nwb, path, what)
    if not is_series(item):
        raise BadInput(f"{path} is a {type(item).__name__}; expected a TimeSeries")
    return item


def is_series(item) -> bool:
    return hasattr(item, "data") and hasattr(item, "timestamps")


def walk(nwb, path: str, what: str):
    """The item at a path; BadInput with what was sought and what there is instead."""
    item, walked = nwb, []
    for part in path.strip("/").split("/"):
        known = children(item)
        if part not in known:
            raise BadInput(
                f"no {what} at {path}: {'/'.join(walked) or 'the file'} has "
                f"{', '.join(sorted(known)) or 'nothing'}"
            )
        item = known[part]
        walked.append(part)
    return item


def children(item) -> dict:
    """Named members of an NWB container, or of the file itself."""
    if hasattr(item, "processing"):
        return {"processing": dict(item.processing), "acquisition": dict(item.acquisition)}
    if isinstance(item, dict):
        return item
    if is_series(item) or not hasattr(item, "children"):
        return {}
    return {child.name: child for child in item.children}

"""Covariates of an NWB file: which samples are kept, masked, and differentiated, in this order.

A sample outside the valid intervals is NaN before anything is computed from its neighbours, so that
no value of the result mixes two stretches that were not recorded, or not meant, as one.
"""

from dataclasses import replace
from itertools import groupby, islice

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.clocks import EDGE, slack
from ndt3_dist.readers.column_names import chosen_names
from ndt3_dist.readers.nwb.nwb_file import NwbFile
from ndt3_dist.readers.nwb.nwb_series import Series, read_side_by_side
from ndt3_dist.readers.options import CovariatesRecipe, ReadOptions
from ndt3_dist.readers.spans import contains


def choose_columns(series: list[Series], recipe: CovariatesRecipe) -> list[Series]:
    """The dimensions that a recipe takes, in its order, under its names for them."""
    places = [(s, dim) for s in series for dim in range(s.values.shape[1])]
    columns = recipe.columns or list(range(len(places)))
    if any(not 0 <= c < len(places) for c in columns):
        raise BadInput(f"covariates.columns {columns}: {recipe.path} has {len(places)} dimensions")
    own = tuple(s.names[dim] for s, dim in (places[c] for c in columns))
    names = iter(chosen_names(recipe.names, own))
    if not recipe.columns:
        return [replace(s, names=tuple(islice(names, s.values.shape[1]))) for s in series]
    chosen = []
    for _, some in groupby((places[c] for c in columns), key=lambda place: id(place[0])):
        (one, *_), dims = zip(*some, strict=True)
        units = tuple(one.units[dim] for dim in dims)
        values, called = one.values[:, list(dims)], tuple(islice(names, len(dims)))
        chosen.append(replace(one, values=values, names=called, units=units))
    return chosen


def read_covariates(
    nwb: NwbFile, recipe: ReadOptions, file_s: float
) -> tuple[list[Series], list[Series]]:
    """The covariates as the file has them (all samples with a time of their own, chosen columns),
    by their clocks; and without those that are held."""
    raw = choose_columns(read_side_by_side(nwb, recipe.covariates, file_s), recipe.covariates)
    if "held_values" not in recipe.covariates.drop:
        return raw, raw
    return raw, [take(s, not_held(s.times, s.values, s.error)) for s in raw]


def take(series: Series, keep: np.ndarray) -> Series:
    """The samples that `keep` (samples,) says."""
    return replace(
        series, times=series.times[keep], values=series.values[keep], which=series.which[keep]
    )


def not_held(times: np.ndarray, values: np.ndarray, error_s: float = 0.0) -> np.ndarray:
    """Which samples a slower sensor took, where a faster clock repeats its last value.

    A value that is held for long (a hand at rest) is kept once a sensor period, the median time
    between changes, and not so close before a change that its derivative would be that of the
    clock.

    Args:
        times: In s, (samples,).
        values: (samples, dims).
        error_s: What the distance of two times may be off by.
    Returns:
        (samples,) bool.
    """
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    begins = np.r_[True, ~same.all(axis=1)]
    at = np.flatnonzero(begins)
    if len(at) < 3:
        return begins
    apart = np.diff(times[at])
    sensor_s = float(np.median(apart))
    near = np.abs(apart - sensor_s) <= 2 * error_s
    if near.any():  # the median alone keeps what storing did to one step
        sensor_s = float(apart[near].mean())
    run = np.cumsum(begins) - 1
    beats = np.floor((times - times[at][run]) / sensor_s + slack(error_s, sensor_s) / sensor_s)
    beat = np.r_[False, (np.diff(beats) > 0)]
    before_next = np.append(times[at][1:], np.inf)[run] - times
    return begins | (beat & (before_next > sensor_s / 2))


def mask_outside(series: Series, spans: np.ndarray | None, error_s: float = 0.0) -> Series:
    """The same samples, NaN where they begin outside all spans.

    Args:
        spans: (spans, 2) in s; None is all time.
        error_s: What the distance of a sample from the edge of a span may be off by.
    """
    if spans is None:
        return series
    near = max(series.period * 1e-3, slack(error_s, series.period))
    valid = contains(spans, series.times, near)
    return replace(series, values=np.where(valid[:, None], series.values, np.nan))


def derivative(series: Series, max_gap_s: float, causal: bool = False) -> Series:
    """Change per second of each dimension, over contiguous finite stretches alone.

    Args:
        series: Such as positions.
        max_gap_s: Samples further apart than this belong to different stretches.
        causal: Whether it is the change since the sample before, and not also to the one after.
    Returns:
        The same times; NaN where a stretch has a single sample, or, causal, begins.
    """
    values = np.full_like(series.values, np.nan)
    longest = max_gap_s + max(EDGE * max_gap_s, slack(series.error, series.period))
    for dim, column in enumerate(series.values.T):
        finite = np.flatnonzero(np.isfinite(column))
        apart = (np.diff(finite) > 1) | (np.diff(series.times[finite]) > longest)
        for at in np.split(finite, np.flatnonzero(apart) + 1):
            if causal:
                values[at[1:], dim] = np.diff(column[at]) / np.diff(series.times[at])
            elif len(at) > 1:
                values[at, dim] = np.gradient(column[at], series.times[at])
    units = tuple(f"{unit}/s" for unit in series.units)
    return replace(series, values=values, units=units)

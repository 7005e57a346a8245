"""Samples and times that do not pair: refused by name, or left out and counted.

`covariates.repair: drop` does what is otherwise done by hand. What has no time goes, what comes no
later than a sample before it, and what lies ahead of all that follows; of samples and times the end
that has no partner. More than MOST of a series is no slip: it is refused however it is asked for.
"""

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.readers.options import CovariatesRecipe

MOST = 0.1
"""Share of a series that may be left out."""
REMEDY = "correct the file, or say covariates.repair=drop"


def pairs(field: str, times: int, samples: int, recipe: CovariatesRecipe) -> int:
    """How many samples have a time: all, or BadInput, or as many as both have.

    Args:
        field: Name of the series.
        times: Number of its times.
        samples: Number of its samples.
        recipe: Whether it is repaired.
    """
    if times == samples:
        return samples
    few, many = sorted((times, samples))
    said = f"{field}: {times} times, {samples} samples"
    if many - few > MOST * many:
        raise BadInput(f"{said}; expected one time a sample: are they of one series?")
    if recipe.repair != "drop":
        raise BadInput(f"{said}; {REMEDY}")
    return few


def in_order(
    field: str, times: np.ndarray, error_s: float, recipe: CovariatesRecipe | None = None
) -> np.ndarray:
    """Which samples ascend strictly, (samples,) bool: all, or BadInput, or those that do.

    Args:
        times: (samples,).
        error_s: What the distance of two of them may be off by, to name it as the reason.
        recipe: Whether they are repaired, None = never; its `drop: [repeated_times]` asks for the
            samples that are no later than one before them alone, however many.
    """
    finite = np.isfinite(times)
    drops = recipe is not None and recipe.repair == "drop"
    if not finite.all():
        lost, at = int((~finite).sum()), int(np.flatnonzero(~finite)[0])
        few = recipe is not None and lost <= MOST * len(times)
        if not (drops and few):
            raise BadInput(
                f"{field}: {lost} of {len(times)} are NaN or infinite (the first of sample {at}); "
                f"{REMEDY if few else 'expected seconds'}"
            )
        finite[finite] = in_order(field, times[finite], error_s, recipe)
        return finite
    said = f"{field} are not strictly ascending"
    ahead = np.r_[True, times[1:] > np.maximum.accumulate(times)[:-1]][: len(times)]
    if ahead.all() or (recipe and not drops and "repeated_times" in recipe.drop):
        return ahead
    before = np.r_[times[:-1] < np.minimum.accumulate(times[::-1])[::-1][1:], True]
    keep = ahead if ahead.sum() >= before.sum() else before
    lost = int((~keep).sum())
    few = lost <= MOST * len(times)
    if drops and few:
        return keep
    at = int(np.flatnonzero(np.diff(times) <= 0)[0])
    said += f": {times[at + 1]:.4f} s (sample {at + 1}) after {times[at]:.4f} s"
    if error_s * len(times) > (times.max() - times.min()) / 2:
        held = f"they are held to {error_s:.3g} s"
        raise BadInput(f"{said}; {held}: expected float64, or times since the session began")
    said += f"; {lost} of {len(times)} would have to go"
    raise BadInput(f"{said}: {REMEDY if few and recipe else 'sort them in the file'}")

"""The official score: Pearson r of each parcel over time, the ends of each clip left out.

The clips of a film are laid end to end without their first and last five samples. A film's score is
the mean r over parcels, a subject's the mean over films, the score the mean over subjects.

Source: the scoring program of the Algonauts 2025 challenge.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri.clips.clip_names import film_of

TRIM = 5
"""Samples left out at both ends of each clip."""
Clips = Mapping[str, np.ndarray]
"""Clip -> (samples, parcels)."""


@dataclass(frozen=True)
class Score:
    """What predictions are worth.

    Attributes:
        by_parcel: r of each subject and film, (parcels,).
    """

    by_parcel: dict[str, dict[str, np.ndarray]]

    @property
    def films(self) -> dict[str, dict[str, float]]:
        """Of each subject and film."""
        return {
            subject: {film: float(np.mean(r)) for film, r in films.items()}
            for subject, films in self.by_parcel.items()
        }

    @property
    def subjects(self) -> dict[str, float]:
        return {s: math.fsum(f.values()) / len(f) for s, f in self.films.items()}

    @property
    def value(self) -> float:
        """Of all subjects."""
        found = self.subjects.values()
        return math.fsum(found) / len(found)

    def of_film(self, film: str) -> float:
        """Mean over the subjects that have it."""
        found = [films[film] for films in self.films.values() if film in films]
        return math.fsum(found) / len(found)

    def parcels_of(self, subject: str) -> np.ndarray:
        """Mean r over a subject's films, (parcels,)."""
        return np.mean(list(self.by_parcel[subject].values()), axis=0)


def trimmed(values: np.ndarray, where: str, trim: int = TRIM) -> np.ndarray:
    """A clip without its ends. Raises BadInput where nothing would be left of it."""
    if len(values) <= 2 * trim + 1:
        raise BadInput(
            f"{where} has {len(values)} samples; expected more than {2 * trim + 1}, since {trim} "
            "at each end are not scored"
        )
    return values[trim : len(values) - trim]


def pearson(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """r over rows of each column; NaN where one of the two does not vary, (columns,)."""
    true, predicted = true.astype(np.float64), predicted.astype(np.float64)
    true = true - true.mean(0)
    predicted = predicted - predicted.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.sqrt((true**2).sum(0) * (predicted**2).sum(0))
        return np.where(norm > 0, (true * predicted).sum(0) / norm, np.nan)


def score(
    predicted: Mapping[str, Clips],
    truth: Mapping[str, Clips],
    trim: int = TRIM,
    still: float | None = None,
) -> Score:
    """Score predictions that `bold_submission.check` let pass.

    Args:
        predicted, truth: Subject -> clip -> (samples, parcels), of the same clips.
        still: r of a parcel that does not vary; None = an error.
    Raises:
        BadInput: They have other clips or lengths, or a prediction does not vary over a film.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for subject, clips in truth.items():
        theirs = predicted.get(subject, {})
        if {*clips} != {*theirs}:
            apart = sorted({*clips} ^ {*theirs})[:5]
            raise BadInput(f"{subject}: truth and predictions have other clips ({apart})")
        films: dict[str, list[str]] = {}
        for clip in sorted(clips):
            films.setdefault(film_of(clip), []).append(clip)
        found[subject] = {
            film: _of_film(subject, names, clips, theirs, trim, still)
            for film, names in films.items()
        }
    return Score(found)


def _of_film(subject, names: list[str], truth: Clips, predicted: Clips, trim: int, still):
    """r of each parcel over the clips of a film, (parcels,)."""
    for clip in names:
        if truth[clip].shape != predicted[clip].shape:
            raise BadInput(
                f"{subject} {clip}: predicted {predicted[clip].shape}, expected "
                f"{truth[clip].shape} (samples, parcels)"
            )
    both = [
        np.concatenate([trimmed(each[clip], f"{subject} {clip}", trim) for clip in names])
        for each in (truth, predicted)
    ]
    r = pearson(*both)
    if still is not None:
        return np.nan_to_num(r, nan=still)
    if not np.isfinite(r).all():
        number = int(np.flatnonzero(~np.isfinite(r))[0])
        raise BadInput(
            f"{subject} {film_of(names[0])}: parcel {number} does not vary, or is no number, in "
            "truth or prediction, so it has no r; the official score would be 0"
        )
    return r


def by_network(parcels: np.ndarray, networks: list[str]) -> dict[str, float]:
    """Mean r over the parcels of each network.

    Args:
        parcels: r, (parcels,).
        networks: Of each parcel.
    """
    if len(networks) != len(parcels):
        raise BadInput(f"{len(networks)} parcels have a network, r has {len(parcels)}")
    names = np.array(networks)
    return {n: float(parcels[names == n].mean()) for n in dict.fromkeys(networks)}


def noise_ceiling(first: Clips, second: Clips, trim: int = TRIM) -> np.ndarray:
    """The r that a perfect model has with one repeat, where clips were seen twice, (parcels,).

    The square root of the r between repeats; 0 where that is negative.
    """
    clips = sorted({*first} & {*second})
    if not clips:
        raise BadInput("no clip was seen twice, so there is no noise ceiling")
    rows = {c: min(len(first[c]), len(second[c])) for c in clips}
    both = [
        np.concatenate([trimmed(each[c][: rows[c]], c, trim) for c in clips])
        for each in (first, second)
    ]
    return np.sqrt(np.maximum(np.nan_to_num(pearson(*both)), 0))

"""Which sessions a run trains on, and of which source they are: patterns of their ids."""

import fnmatch

import numpy as np

from ndt3_dist.data.data_config import DataConfig
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.manifest import REMOVED


def matching(corpus: str, ids: list[str], patterns: tuple[str, ...]) -> np.ndarray:
    """Which sessions any of some patterns names, (sessions,) bool.

    Raises:
        BadInput: A pattern names no session of the corpus.
    """
    found = np.zeros(len(ids), bool)
    for pattern in patterns:
        matched = np.array([fnmatch.fnmatchcase(i, pattern) for i in ids])
        if not matched.any():
            raise BadInput(
                f"{corpus}: no session matches {pattern!r}; patterns such as 'falcon-*' match "
                f"whole ids, DATASET-SUBJECT-SESSION: {', '.join(ids[:5])}"
                + (", ..." if len(ids) > 5 else "")
            )
        found |= matched
    return found


def named(corpus: str, ids: list[str], data: DataConfig) -> np.ndarray:
    """Which sessions `data.sessions` takes and `data.exclude` leaves, (sessions,) bool.

    Rows of removed sessions are never taken, so that no source of a mixture has to name them.
    """
    there = np.array([not i.startswith(f"{REMOVED}-") for i in ids])
    return there & matching(corpus, ids, data.sessions) & ~matching(corpus, ids, data.exclude)


def sources_of(corpus: str, ids: list[str], data: DataConfig) -> np.ndarray:
    """Source of each session: the first of `data.mixture` that names it, -1 if left out.

    Raises:
        BadInput: A session that is trained on belongs to none.
    """
    taken = named(corpus, ids, data)
    if not data.mixture:
        return np.where(taken, 0, -1)
    found = np.full(len(ids), -1)
    for number, source in enumerate(data.mixture):
        found[(found < 0) & matching(corpus, ids, source.sessions)] = number
    lost = [i for i, t, f in zip(ids, taken, found, strict=True) if t and f < 0]
    if lost:
        raise BadInput(
            f"{corpus}: {len(lost)} sessions are of no source of data.mixture: "
            f"{', '.join(lost[:5])}; add a source, such as sessions: ['*'], or data.exclude them"
        )
    return np.where(taken, found, -1)

"""Graft submissions: whole films, or the parcels of a network, from others into a base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndt3_dist.config import Section, load_config
from ndt3_dist.errors import BadInput
from ndt3_dist.tasks.fmri import bold_submission
from ndt3_dist.tasks.fmri.clips.clip_names import film_of
from ndt3_dist.tasks.fmri.parcel_networks import read_networks

Clips = dict[str, dict[str, np.ndarray]]


class MergeParts(Section):
    base: str
    """Submission that the others are laid over."""
    movies: dict[str, str] = {}
    """Clip or film -> the submission that it is taken from."""
    networks: dict[str, str] = {}
    """Network -> the submission that its parcels are taken from, in all clips."""


class MergePlan(Section):
    """As vibe-merge has it."""

    output_path: str = ""
    atlas: str = ""
    """Table of the parcels' networks, which `networks` needs."""
    merge: MergeParts


def load_plan(path: str | Path) -> MergePlan:
    return load_config(MergePlan, path)


def merge(plan: MergePlan, folder: str | Path = ".") -> Clips:
    """The base with the plan's films and networks.

    Args:
        folder: That paths of submissions count from.
    Raises:
        BadInput: A film or network is in none of them, or clips have other shapes.
    """
    opened: dict[str, Any] = {}

    def read(name: str) -> Clips:
        if name not in opened:
            opened[name] = bold_submission.read(Path(folder, name))
        return opened[name]

    base = {s: dict(clips) for s, clips in read(plan.merge.base).items()}
    for movie, name in plan.merge.movies.items():
        taken = 0
        for subject, clips in base.items():
            for clip in [c for c in clips if movie in (c, film_of(c))]:
                clips[clip], taken = same(read(name), subject, clip, clips[clip], name), taken + 1
        if not taken:
            raise BadInput(f"{plan.merge.base}: has no clip of {movie}")
    if plan.merge.networks:
        graft(base, {net: (n, read(n)) for net, n in plan.merge.networks.items()}, plan, folder)
    return base


def graft(
    base: Clips, others: Mapping[str, tuple[str, Clips]], plan: MergePlan, folder: str | Path
) -> None:
    """Replace the parcels of networks, in all clips."""
    if not plan.atlas:
        raise BadInput("merge.networks needs `atlas`: a table with the network of each parcel")
    parcels = next(v.shape[1] for clips in base.values() for v in clips.values())
    networks = np.array(read_networks(Path(folder, plan.atlas), parcels))
    for network, (name, other) in others.items():
        mine = networks == network
        if not mine.any():
            known = ", ".join(dict.fromkeys(networks.tolist()))
            raise BadInput(f"{plan.atlas}: no parcel of network {network}; there are {known}")
        for subject, clips in base.items():
            for clip, values in clips.items():
                taken = same(other, subject, clip, values, name)
                clips[clip] = np.where(mine, taken, values)


def same(other: Clips, subject: str, clip: str, values: np.ndarray, name: str) -> np.ndarray:
    """A clip of another submission, as large as that of the base."""
    found = other.get(subject, {}).get(clip)
    if found is None or found.shape != values.shape:
        what = "is missing" if found is None else f"is {found.shape}, expected {values.shape}"
        raise BadInput(f"{name}: {subject} {clip} {what}")
    return found

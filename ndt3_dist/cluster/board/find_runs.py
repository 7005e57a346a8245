"""Which runs a board shows: folders, patterns and URLs as they were typed, and what lies below."""

import glob
from collections.abc import Iterator

from ndt3_dist import remote, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.train import run_metrics, settings

SIGNS = {run_metrics.FILE, settings.STARTS}
"""A folder with one of these is a run."""
NO_RUNS = {"steps", "export", "faults", "logs", "wandb", "latest"}
"""Folders of a run in which no other run lies."""
DEEPEST = 4
MOST = 20_000


def find_runs(places: list[str]) -> list[str]:
    """The folders of all runs, each once, in order.

    Args:
        places: Folders of runs or above them, local patterns such as `runs/a*`, URLs of a store.
    Raises:
        BadInput: Nothing is at one of them.
        StoreFailed, OSError: One cannot be looked at.
    """
    found: dict[str, None] = {}
    for place in places:
        folders = [place]
        if any(c in place for c in "*?[") and not storage.exists(place):
            folders = matching(place)
        there = False
        for folder in folders:
            names = storage.sizes(folder)
            there = there or bool(names) or storage.exists(folder)
            for run in below(folder.rstrip("/") or "/", names, DEEPEST):
                found[run] = None
                if len(found) >= MOST:
                    return [*found]
        if not there:
            raise BadInput(
                f"{place}: nothing is there; expected the folder of a run, one with runs below it, "
                "a pattern, or an s3:// URL"
            )
    return [*found]


def matching(pattern: str) -> list[str]:
    """Folders that a pattern names, sorted."""
    if not storage.is_remote(pattern):
        return sorted(glob.glob(pattern))
    protocol = pattern.split("://", 1)[0]
    names = remote.with_retries(
        pattern, "listed", lambda: remote.filesystem(pattern).glob(pattern), attempts=2
    )
    return sorted(f"{protocol}://{name.split('://', 1)[-1]}" for name in names)


def below(folder: str, names: dict[str, int | None], depth: int) -> Iterator[str]:
    """Runs at and below a folder whose content is known."""
    if SIGNS & {*names}:
        yield folder
    if depth:
        for name in sorted(name for name, size in names.items() if size is None):
            if name not in NO_RUNS and not name.startswith("."):
                inside = storage.join(folder, name)
                try:
                    content = storage.sizes(inside)
                except PermissionError:
                    continue
                yield from below(inside, content, depth - 1)

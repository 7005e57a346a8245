"""Which runs and exports have seen a session, by its id or by the hash of its recording.

A fine-tune has seen what its parents saw: exports carry the stages of training behind them
(`checkpoint.lineage`), runs keep theirs in lineage.json.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, Ndt3DistError

NAMES = ("normalisation.json", "lineage.json", "config.json")
"""Files that say what weights have seen: by id; by hash, of a run and of an export."""


def runs_that_saw(
    ids: set[str], hashes: set[str], folders: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Runs and exports below some folders that have seen a session, themselves or by a parent.

    Args:
        ids: Of the sessions.
        hashes: Of their recordings: another corpus may call them otherwise.
    Returns:
        Those that have, and others that do not say all that they have seen.
    Raises:
        BadInput: A folder is not there, or a file in it cannot be read.
    """
    found, unsure = set(), set()
    for folder in folders:
        if not storage.exists(folder):
            raise BadInput(f"--runs {folder}: no such folder; nothing was looked through")
        for path in files_below(folder):
            try:
                there, known, is_all = said_in(storage.read_json(path), path.rsplit("/", 1)[-1])
            except (Ndt3DistError, KeyError, TypeError, AttributeError, OSError) as e:
                raise BadInput(f"{path}: cannot be read ({e}); look into that run yourself") from e
            if ids & there or hashes & known:
                found.add(path.rsplit("/", 1)[0])
            elif not is_all:
                unsure.add(path.rsplit("/", 1)[0])
    return sorted(found), sorted(unsure - found)


def files_below(folder: str) -> Iterator[str]:
    """Paths of the files that say what weights have seen."""
    if storage.is_remote(folder):
        names = (storage.join(folder, name) for name in storage.walk(folder))
    else:
        names = (str(path) for path in Path(folder).rglob("*.json"))
    yield from sorted(name for name in names if name.rsplit("/", 1)[-1] in NAMES)


def said_in(content: dict, name: str) -> tuple[set[str], set[str], bool]:
    """Ids and hashes of sessions that a file names; whether it says where all weights come from.

    Args:
        name: Of the file, one of NAMES.
    """
    if name == "normalisation.json":
        return set(content["sessions"]), set(), True
    if name == "lineage.json":
        stages = [*content["before"], *content["stages"]]
    else:  # of an export, or of a fine-tune, which has an export
        trained = content.get("trained", {"lineage": []})
        stages = trained.get("lineage", [{"sessions": None}])  # not kept by earlier versions
    hashes = {h for stage in stages for h in (stage["sessions"] or {}).values()}
    return set(), hashes, all(stage["sessions"] is not None for stage in stages)

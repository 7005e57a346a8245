"""The recordings of a recipe: found, sorted and measured before any work begins.

A recording is a file, or a folder whose name ends in .zarr. A source is a recording, a folder of
them, their like in a store, or the list of assets that DANDI keeps of each dandiset
(assets.jsonld), whose recordings lie in its bucket under names without meaning.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from ndt3_dist import storage
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.in_memory import content_hash
from ndt3_dist.readers.on_disk import FOLDER, size_of
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import name_part

LISTING = "assets.jsonld"


@dataclass(frozen=True)
class RecordingFile:
    """A recording.

    Attributes:
        path: Local path or URL.
        name: Path below the recipe's source, with '/'.
        bytes: Its size.
        sha256: Hash that its content must have; "" where none is known beforehand.
    """

    path: str
    name: str
    bytes: int
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class InMemory(RecordingFile):
    """A recording that no file holds.

    Attributes:
        recording: As a reader would give it; it is left as it is.
    """

    recording: Recording

    @classmethod
    def of(cls, recording: Recording) -> "InMemory":
        """With a name made of its subject and session."""
        name = f"{name_part(recording.subject)}-{name_part(recording.session)}"
        sha256, size = content_hash(recording)
        return cls(path=name, name=name, bytes=size, sha256=sha256, recording=recording)


def held_in_memory(recordings: Sequence[Recording]) -> list[RecordingFile]:
    """Recordings, sorted by name; BadInput where there is none, or two have one name."""
    found: list[RecordingFile] = [InMemory.of(r) for r in recordings]
    found.sort(key=lambda source: source.name)
    if not found:
        raise BadInput("no recording was given; expected one at least")
    for one, other in pairwise(found):
        if one.name == other.name:
            raise BadInput(
                f"two recordings are called {one.name}; expected another subject or session of each"
            )
    return found


def find_recordings(recipe: Recipe) -> list[RecordingFile]:
    """Recordings of a recipe, sorted by name.

    Raises:
        BadInput: The source is not there, or no file of it matches the pattern.
    """
    root = recipe.source
    if not root or not storage.exists(root):
        raise BadInput(
            f"source {root or '(empty)'}: no such file or folder; "
            "give source=FILE or source=FOLDER, a path or an s3:// URL"
        )
    if root.endswith(LISTING):
        found = _listed(recipe)
    else:
        found = _remote(recipe) if storage.is_remote(root) else _local(recipe)
    if not found:
        raise BadInput(f"source {root}: no file matches {recipe.pattern}")
    return sorted(found, key=lambda source: source.name)


def _local(recipe: Recipe) -> list[RecordingFile]:
    root = Path(recipe.source)
    if root.is_file() or root.name.endswith(FOLDER):
        return [RecordingFile(str(root), root.name, local_bytes(root))]
    found = {p.relative_to(root).as_posix(): p for p in files_below(root)}
    folders = {n for n, p in found.items() if n.endswith(FOLDER) and p.is_dir()}
    return [
        RecordingFile(str(found[name]), name, local_bytes(found[name]))
        for name in taken(found, folders, recipe.pattern)
    ]


def local_bytes(path: Path) -> int:
    """Of a recording; 0 where it cannot be told. A link to nothing is a recording too, which
    fails by name."""
    try:
        return size_of(path)
    except (OSError, BadInput):
        return 0


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, then those behind links to other folders, each folder once;
    a folder that is a recording is as a file."""
    waiting, seen = [str(root)], set()
    while waiting:
        for folder, below, names in os.walk(waiting.pop(0)):
            if (real := os.path.realpath(folder)) in seen:
                below.clear()
                continue
            seen.add(real)
            whole = [name for name in below if name.endswith(FOLDER)]
            below[:] = sorted(set(below) - set(whole))
            paths = (os.path.join(folder, name) for name in below)
            waiting += [path for path in paths if os.path.islink(path)]
            yield from (Path(folder) / name for name in [*names, *whole])


def _remote(recipe: Recipe) -> list[RecordingFile]:
    found = storage.walk(recipe.source)
    if recipe.source.rstrip("/").endswith(FOLDER) and "" not in found:
        source = recipe.source.rstrip("/")
        return [RecordingFile(source, source.rsplit("/", 1)[-1], sum(found.values()))]
    if len(found) == 1 and "" in found:
        name = recipe.source.split("?")[0].rsplit("/", 1)[-1]  # less what signs a URL
        return [RecordingFile(recipe.source, name, found[""])]
    sizes: dict[str, int] = {}
    folders = set()
    for name, size in found.items():
        *above, _ = parts = name.split("/")
        at = next((i for i, part in enumerate(above) if part.endswith(FOLDER)), len(above))
        whole = "/".join(parts[: at + 1])
        folders |= {whole} if at < len(above) else set()
        sizes[whole] = sizes.get(whole, 0) + size
    return [
        RecordingFile(storage.join(recipe.source, name), name, sizes[name])
        for name in taken(sizes, folders, recipe.pattern)
    ]


def taken(names: Collection[str], folders: set[str], pattern: str) -> list[str]:
    """Names that are of a pattern. A folder X.nwb.zarr is also where X.nwb is, unless there is a
    file of this name: then it is the same recording once more."""

    def is_taken(name: str) -> bool:
        short = name.removesuffix(FOLDER)
        instead = name in folders and short not in names and matches(short, pattern)
        return instead or matches(name, pattern)

    return [name for name in names if is_taken(name)]


def matches(name: str, pattern: str) -> bool:
    """Whether a name with '/' is of a pattern: * within a folder, **/ for any folders or none."""

    def rest(parts: list[str], wanted: list[str]) -> bool:
        if not wanted:
            return not parts
        if wanted[0] == "**":
            return rest(parts, wanted[1:]) or (bool(parts) and rest(parts[1:], wanted))
        return bool(parts) and fnmatchcase(parts[0], wanted[0]) and rest(parts[1:], wanted[1:])

    return rest(name.split("/"), pattern.split("/"))


def _listed(recipe: Recipe) -> list[RecordingFile]:
    """Recordings of a dandiset by its list of assets: their names, where they lie, their hashes.

    Source: the dandi-schema fields path, contentUrl, contentSize and digest.
    """
    found, names, host = [], set(), recipe.source.split("/")[:3]
    for number, asset in enumerate(_list_of(recipe.source)):
        try:
            name, size, urls = asset["path"], int(asset["contentSize"]), list(asset["contentUrl"])
            if not matches(name, recipe.pattern):
                continue
            if name.endswith(FOLDER):
                raise BadInput(
                    f"{recipe.source}: {name} is a folder, which no list leads to; download it "
                    "(dandi download) and give the folder as the source"
                )
            # The archive's API comes first, and sends on to the bucket that the other one names.
            path = next((url for url in urls if "/blobs/" in url), urls[0])
            digest = asset.get("digest", {}).get("dandi:sha2-256", "")
        except BadInput:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            raise BadInput(
                f"{recipe.source}: asset {number} lacks path, contentSize or contentUrl ({e}); "
                "expected the assets.jsonld of a dandiset"
            ) from e
        allowed = path.split("://")[0] in ("https", "s3") or path.split("/")[:3] == host
        if not allowed or ".." in name.split("/"):
            raise BadInput(f"{recipe.source}: asset {number} has a path or URL that is refused")
        if name in names:
            raise BadInput(f"{recipe.source}: asset {number} has the path of another one")
        names.add(name)
        found.append(RecordingFile(path, name, size, digest))
    return found


def _list_of(path: str) -> list:
    found = storage.read_json(path)
    if not isinstance(found, list):
        raise BadInput(f"{path}: not a list; expected the assets.jsonld of a dandiset")
    return found

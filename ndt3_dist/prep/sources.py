"""The recordings of a recipe: found, sorted and measured before any work begins."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, Ndt3DistError
from ndt3_dist.prep.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """A recording.

    Attributes:
        path: Local path or URL.
        name: Path below the recipe's source, with '/'.
        bytes: Its size.
    """

    path: str
    name: str
    bytes: int


def find_sources(recipe: Recipe) -> list[Source]:
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
    found = _remote(recipe) if storage.is_remote(root) else _local(recipe)
    if not found:
        raise BadInput(f"source {root}: no file matches {recipe.pattern}")
    return sorted(found, key=lambda source: source.name)


def _local(recipe: Recipe) -> list[Source]:
    root = Path(recipe.source)
    if root.is_file():
        return [Source(str(root), root.name, root.stat().st_size)]
    # A link to nothing is a recording too, which fails by name.
    files = [p for p in root.glob(recipe.pattern) if not p.is_dir()]
    return [
        Source(str(p), p.relative_to(root).as_posix(), p.stat().st_size if p.exists() else 0)
        for p in files
    ]


def _remote(recipe: Recipe) -> list[Source]:
    found = storage.walk(recipe.source)
    if len(found) == 1 and "" in found:
        return [Source(recipe.source, recipe.source.rsplit("/", 1)[-1], found[""])]
    pattern = recipe.pattern.removeprefix("**/")
    return [
        Source(storage.join(recipe.source, name), name, size)
        for name, size in found.items()
        if fnmatch(PurePosixPath(name).name if "/" not in pattern else name, pattern)
    ]


@contextmanager
def fetched(source: Source) -> Iterator[tuple[Path, str]]:
    """A local file of a recording and its sha256; a remote one lies on this host's disk meanwhile.

    Raises:
        BadInput: It is no file, but a pipe or the like.
        NoRoom: It does not fit.
        StoreFailed: It cannot be had.
    """
    if not storage.is_remote(source.path):
        if Path(source.path).exists() and not Path(source.path).is_file():
            raise BadInput(f"{source.path}: not a regular file; expected a recording")
        yield Path(source.path), storage.sha256_file(source.path)
        return
    storage.check_room(tempfile.gettempdir(), source.bytes)
    with tempfile.TemporaryDirectory(prefix="ndt3_dist_") as folder:
        # Readers may take a name from the file's own or its folder's.
        *_, above, name = PurePosixPath(source.path).parts
        path, digest = Path(folder) / above / name, hashlib.sha256()
        path.parent.mkdir()
        try:
            with path.open("wb") as file:
                for piece in storage.chunks(source.path):
                    file.write(piece)
                    digest.update(piece)
        except OSError as e:
            if e.errno in storage.FULL:
                raise storage.no_room(path, source.bytes) from e
            raise
        try:
            yield path, digest.hexdigest()
        except Ndt3DistError as e:
            raise type(e)(str(e).replace(str(path), source.path)) from e

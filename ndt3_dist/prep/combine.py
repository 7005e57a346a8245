"""One corpus made of several: shards linked or copied, their indexes renumbered, a new manifest.

The combined corpus owns its bytes, so that nothing which happens to the others breaks it. The
first corpus's sessions and shards come first and stay as they are, names included: a run on it
alone may go on with the combined one.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, ManifestMismatch, ShardCorrupt
from ndt3_dist.lease import Lease
from ndt3_dist.prep.output import (
    claim,
    put_manifest,
    remove_strays,
    removed_hashes,
    withdraw,
    withdrawn,
)
from ndt3_dist.prep.remove import empty, sizes_of
from ndt3_dist.shards.corpus import read_index
from ndt3_dist.shards.index import as_version_1, index_type
from ndt3_dist.shards.manifest import (
    MANIFEST,
    Manifest,
    Session,
    Shard,
    index_path,
    read_manifest,
    shard_path,
)
from ndt3_dist.shards.write import npy_bytes


def combine(out: str, corpora: Sequence[str]) -> Manifest:
    """Make a corpus of several, or find it complete; one that was interrupted is finished.

    Args:
        out: Folder or URL of the new corpus.
        corpora: Folders or URLs of the others, in order.
    Returns:
        Its manifest, whose `recipe` says what it was made of.
    Raises:
        BadInput: They do not go together.
        ManifestMismatch: One is no corpus, or changes meanwhile; or `out` holds something else.
    """
    parts = {path: read_manifest(path) for path in log.progress(corpora, "opening, corpora")}
    if len(parts) < 2:
        raise BadInput(f"{', '.join(parts) or 'nothing'} to combine; expected two corpora or more")
    past = {path: withdrawn(path) for path in (*parts, out)}
    check(parts, past)
    recipe = origin(parts)
    claim(out, recipe)
    with Lease(out) as lease:
        claim(out, recipe, alone=True)
        if storage.exists(storage.join(out, MANIFEST)):
            log.say(f"{out}: complete already, nothing to do")
            return read_manifest(out)
        sessions, jobs = [], []
        base, first = next(iter(parts.items()))
        used = max(first.next_shard(), past[base]["next_shard"], past[out]["next_shard"])
        for path, part in parts.items():
            names = [shard.name for shard in part.shards]
            if part is not first:
                names = [f"{n:06d}" for n in range(used, used + len(names))]
                used += len(names)
            for name, shard in zip(names, part.shards, strict=True):
                jobs.append((out, path, part, shard, name, len(sessions)))
            sessions += [row(n, s) for n, s in enumerate(part.sessions, len(sessions))]
        # The first corpus stays as it is, its version included, so that a run on it can go on.
        streams = {k: v for part in parts.values() for k, v in part.streams.items()}
        fields = {"bin_size_ms": first.bin_size_ms, "window_bins": first.window_bins}
        fields |= {"version": first.version, "streams": streams}
        like = Manifest.of(**fields, recipe={}, recipe_sha256="", sessions=sessions, shards=[])
        if lost := {name for part in parts.values() for name in part.streams} - {*like.members}:
            raise BadInput(
                f"{base} is of corpus version 1, which cannot hold {', '.join(sorted(lost))}; name "
                "a corpus of version 2 first"
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            placed = pool.map(lambda job: place(like, *job), jobs)
            shards = list(log.progress(placed, "shards", total=len(jobs)))
        lease.check()
        made = Manifest.of(
            **fields,
            recipe=recipe,
            recipe_sha256=storage.sha256_bytes(storage.canonical_json(recipe)),
            sessions=sessions,
            shards=shards,
            failed=[f for part in parts.values() for f in part.failed],
        )
        for path, part in parts.items():  # a session may have been taken out meanwhile
            if read_manifest(path).fingerprint != part.fingerprint:
                storage.remove(storage.join(out, "shards"))
                raise ManifestMismatch(f"{path}: changed meanwhile; remove {out} and start again")
        if gone := {h for left in past.values() for h in left["recordings"]}:
            withdraw(out, gone, used)
        put_manifest(out, made, None, lease.check)
        remove_strays(out, made)
    return made


def origin(parts: dict[str, Manifest]) -> dict:
    """What a combined corpus is made of: no path, as in any manifest."""
    made_of = [
        p.model_dump(include={"fingerprint", "recipe_sha256", "recipe"}) for p in parts.values()
    ]
    return {"version": 1, "combined": made_of}


def check(parts: dict[str, Manifest], past: dict[str, dict]) -> None:
    """Refuse corpora that do not go together.

    Args:
        past: Of each, what removals have left (`withdrawn`).
    Raises:
        BadInput: Bins or windows differ, a session or recording is in two, or was taken out of one.
    """
    ids: dict[str, str] = {}
    hashes: dict[str, tuple[str, str]] = {}
    gone: dict[str, str] = {}
    for path, left in past.items():
        rows = parts[path].sessions if path in parts else []
        gone |= dict.fromkeys(removed_hashes(rows, left), path)
    first, *_ = parts
    for path, part in parts.items():
        for field in ("bin_size_ms", "window_bins"):
            here, there = getattr(part, field), getattr(parts[first], field)
            if here != there:
                raise BadInput(
                    f"{path}: {field} is {here:g}, {first} has {there:g}; prepare them alike"
                )
        live = [s for s in part.sessions if not s.is_removed]
        if twice := [s.id for s in live if s.id in ids]:
            raise BadInput(
                f"{path}: {len(twice)} sessions are in {ids[twice[0]]} too: "
                f"{', '.join(twice[:5])}; data_prep/remove.py takes them out of one"
            )
        for session in live:
            if session.source_sha256 in gone:
                raise BadInput(
                    f"{path}: {session.id} was taken out of {gone[session.source_sha256]}; "
                    "take it out here, too"
                )
            if session.source_sha256 in hashes:
                other, its = hashes[session.source_sha256]
                raise BadInput(
                    f"{path}: {session.id} is the same recording as {its} of {other}; "
                    "data_prep/remove.py takes it out of one"
                )
        ids |= {s.id: path for s in live}
        hashes |= {s.source_sha256: (path, s.id) for s in live}


def row(number: int, session: Session) -> Session:
    """A session's row under another number, which the id of a removed one has in it."""
    return empty(number, session) if session.is_removed else session


def place(
    like: Manifest, out: str, path: str, part: Manifest, shard: Shard, name: str, rows: int
) -> Shard:
    """Bring a shard to `out` under a name.

    Args:
        like: The combined corpus: its version, streams and sessions.
        out: Where that is to be.
        path, part: Corpus of the shard.
        shard: To bring.
        name: It is to have.
        rows: Its sessions are moved on by so many.
    Raises:
        ShardCorrupt: The index is not the manifest's, or the shard is missing or of another length.
    """
    index = read_index(path, part, shard)
    moved = np.zeros(len(index), index_type(like.members))
    for field in index.dtype.names or ():
        if field in (moved.dtype.names or ()):
            moved[field] = index[field]
        elif index[field]["size"].any():  # of version 1, whose manifest need not name it
            raise BadInput(f"{path}: has windows with {field}; name it before the others")
    moved["session"] += rows
    tokens, stored = 0, moved
    if (sizes := sizes_of(like)) is not None:
        stored = as_version_1(moved, sizes)
        tokens = int(stored["tokens"].sum())
    data = npy_bytes(stored)
    tar, to = shard_path(path, shard.name), shard_path(out, name)
    try:
        if not storage.exists(to):  # what is there of a run that was killed is whole
            storage.copy(tar, to)
        if storage.size(to) != shard.bytes:
            storage.remove(to)
            raise ShardCorrupt(f"{tar}: its length is not the manifest's {shard.bytes}; restore it")
    except FileNotFoundError as e:
        raise ShardCorrupt(f"{tar}: missing; restore it") from e
    storage.write_bytes(index_path(out, name), data)
    fields = {"name": name, "index_sha256": storage.sha256_bytes(data), "tokens": tokens}
    return shard.model_copy(update=fields)


def patterns(parts: Sequence[Manifest]) -> list[list[str]]:
    """Patterns for `data.mixture` that name each part's sessions and no other's.

    By dataset where no other part has it, else every id.
    """
    ids = [[s.id for s in part.sessions if not s.is_removed] for part in parts]
    datasets = [{i.split("-")[0] for i in own} for own in ids]
    found = []
    for number, own in enumerate(ids):
        others = set().union(*(d for n, d in enumerate(datasets) if n != number))
        shared = datasets[number] & others
        whole = sorted(f"{d}-*" for d in datasets[number] - shared)
        found.append(whole + [i for i in own if i.split("-")[0] in shared])
    return found

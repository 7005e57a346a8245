"""Take sessions out of a corpus, with every byte of them, and say which runs have seen them."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.lease import Lease
from ndt3_dist.prep.output import put_manifest, remove_strays, withdraw, withdrawn
from ndt3_dist.prep.seen_by import runs_that_saw
from ndt3_dist.shards.cache import Cache
from ndt3_dist.shards.corpus import read_index
from ndt3_dist.shards.manifest import (
    REMOVED,
    Manifest,
    Session,
    Shard,
    index_path,
    neural_tokens_per_bin,
    read_manifest,
    sample_key,
    shard_path,
)
from ndt3_dist.shards.members import described, read_members
from ndt3_dist.shards.write import write_shard


@dataclasses.dataclass
class Removed:
    """What was done.

    Attributes:
        windows: That are gone.
        rewritten: Shards that held some, as (old name, new name or "" where nothing was left).
        cached: Files removed from caches.
        runs: Folders of runs whose model has seen them.
        unsure: Folders of others that do not say all that they have seen.
        named: Places of the manifest that still name one, as split rules do.
        left: What the store keeps all the same, a line each; empty where nothing does.
    """

    windows: int
    rewritten: list[tuple[str, str]]
    cached: int
    runs: list[str]
    unsure: list[str]
    named: list[str]
    left: list[str]


def remove_sessions(
    corpus: str, ids: Iterable[str], caches: Iterable[Cache] = (), runs: Sequence[str] = ()
) -> Removed:
    """Rewrite the shards that hold sessions, commit, then delete what held them for good.

    Rows of the session table keep their numbers, which indexes refer to: a removed session leaves
    a row without content, but for its recording's hash, so that it does not come back unnoticed.

    Args:
        corpus: Folder or URL.
        ids: Of the sessions; none = finish what an earlier removal could not.
        caches: From which old shards go too; those of other hosts are theirs to clear.
        runs: Folders of runs and exports to look through.
    Raises:
        BadInput: There is no such session.
        ManifestMismatch: No corpus, or a job is at work on it.
    """
    ids = list(dict.fromkeys(ids))
    there = read_manifest(corpus).sessions  # no folder is made where there is no corpus
    hashes = {s.source_sha256 for s in there if s.id in ids}
    with log.waiting("looking through runs and exports"):
        seen, unsure = runs_that_saw(set(ids), hashes, runs)
    with Lease(corpus) as lease:
        before, past, left = read_manifest(corpus), withdrawn(corpus), []
        if has_removed(before) or past["recordings"]:
            left = clear(corpus, before)  # what a removal that was killed has left
        elif not ids:
            raise BadInput(f"{corpus}: no session was ever taken out of it; say --session ID")
        try:
            sessions = [present(before, name) for name in ids]
        except BadInput:
            for line in left:
                log.warn(f"{corpus}: there remain {line}")
            raise
        numbers = [before.sessions.index(s) for s in sessions]
        used = max(before.next_shard(), past["next_shard"])
        shards, rewritten, old, windows = [], [], [], 0
        for shard in log.progress(before.shards, "shards"):
            index = read_index(corpus, before, shard)
            gone = np.isin(index["session"], numbers)
            if not gone.any():
                shards.append(shard)
                continue
            windows += int(gone.sum())
            old.append(shard)
            new = without(corpus, before, shard, index[~gone], f"{used:06d}")
            used += 1
            shards += [new] if new else []
            rewritten.append((shard.name, new.name if new else ""))
        kept = [empty(i, s) if i in numbers else s for i, s in enumerate(before.sessions)]
        fields = {k: v for k, v in before if k not in ("fingerprint", "sessions", "shards")}
        after = Manifest.of(**fields, sessions=kept, shards=shards)
        lease.check()
        hashes = [h for shard in old for h in (shard.sha256, shard.index_sha256)]
        cached = sum(cache.forget(h) for cache in caches for h in hashes)
        if ids:
            gone = {*past["recordings"], *(s.source_sha256 for s in sessions)}
            withdraw(corpus, gone, used)
            put_manifest(corpus, after, before, lease.check)
            left = clear(corpus, after)
    named = still_named(after, sessions)
    return Removed(windows, rewritten, cached, seen, unsure, named, left)


def clear(corpus: str, manifest: Manifest) -> list[str]:
    """Remove what lies below a corpus and is not of its manifest.

    Returns:
        What a store keeps all the same, a line each; where nothing was taken out it may.
    """
    with log.waiting(f"removing what {corpus} no longer has"):
        remove_strays(corpus, manifest)
        for name in ("spool", "report.html"):
            storage.remove(storage.join(corpus, name))
        return storage.forget_versions(corpus) if has_removed(manifest) else []


def present(manifest: Manifest, name: str) -> Session:
    """The session with an id, which was not taken out before."""
    session = manifest.named(name)
    if session.is_removed:
        raise BadInput(f"{name} was taken out already")
    return session


def has_removed(manifest: Manifest) -> bool:
    return any(s.is_removed for s in manifest.sessions)


def empty(number: int, session: Session) -> Session:
    """The row that a removed session leaves."""
    return Session(
        id=f"{REMOVED}-{number:06d}",
        dataset=REMOVED,
        subject="",
        session="",
        source="",
        source_sha256=session.source_sha256,
        licence="",
        bins=0,
        start_s=0.0,
        arrays=[],
        covariates=[],
        intervals=[],
        windows={},
        spikes=0,
        spikes_outside=0,
    )


def without(
    corpus: str, manifest: Manifest, shard: Shard, index: np.ndarray, name: str
) -> Shard | None:
    """A shard of the records of `index` alone, under another name; None where there are none."""
    if not len(index):
        return None
    tar = shard_path(corpus, shard.name)

    def samples() -> Iterator[tuple[str, dict, dict]]:
        for entry in index:
            members, row = read_members(tar, entry), int(entry["session"])
            fields = {**described(entry), "session": row}
            yield sample_key(manifest.sessions[row].id, int(entry["start_bin"])), members, fields

    paths = shard_path(corpus, name), index_path(corpus, name)
    written = write_shard(*paths, samples(), manifest.members, sizes_of(manifest))
    return Shard(name=name, split=shard.split, **written)


def sizes_of(manifest: Manifest) -> dict[int, tuple[int, int]] | None:
    """Neural tokens and covariates of a bin by session, which indexes of version 1 need."""
    if manifest.version != 1:
        return None
    rows = enumerate(manifest.sessions)
    return {n: (neural_tokens_per_bin(s.arrays), len(s.covariates)) for n, s in rows}


def still_named(manifest: Manifest, sessions: list[Session]) -> list[str]:
    """Where a manifest still has the id or the file of a removed session."""
    names = {n for s in sessions for n in (s.id, s.source)}
    found = [f"split rule {rule}" for rule in rules_of(manifest.recipe) if rule in names]
    return found + [f"failure of {f.source}" for f in manifest.failed if f.source in names]


def rules_of(recipe: dict) -> list[str]:
    """What the split rules of a recipe match, those of all that a combined corpus is made of."""
    own = [str(rule.get("match")) for rule in recipe.get("splits", [])]
    return own + [m for part in recipe.get("combined", []) for m in rules_of(part["recipe"])]

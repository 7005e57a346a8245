"""What lies at the output of a preparation: whose it is, what it has already, what is committed.

`recipe.json` marks a folder as the output of one recipe before anything else is written; the
manifest comes last.
"""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import ManifestMismatch, StoreFailed
from ndt3_dist.lease import FILE
from ndt3_dist.prep.privacy import source_label
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import InMemory, RecordingFile
from ndt3_dist.prep.stages import streams_among
from ndt3_dist.prep.streams import describe
from ndt3_dist.readers.on_disk import sha256_of
from ndt3_dist.shards.manifest import (
    MANIFEST,
    VERSION,
    Manifest,
    Session,
    Shard,
    read_manifest,
)

WITHDRAWN = "removed.json"
MARKS = ("recipe.json", FILE, WITHDRAWN)
"""Files of an output that are no result."""


def claim(out: str, identity: dict, alone: bool = False) -> None:
    """Take an output for what is to be made of it.

    Args:
        alone: This job holds the output's lease, so that what a try without a result has left may
            be taken over.
    Raises:
        ManifestMismatch: It is not empty, and for something else.
    """
    marker = storage.join(out, "recipe.json")
    if storage.exists(marker):
        theirs = storage.read_json(marker)
        changed = differing(theirs if isinstance(theirs, dict) else {}, identity)
        if changed and (names := made(out)):
            advice = "choose another place" if MANIFEST in names else "choose another, or remove it"
            raise ManifestMismatch(
                f"{out}: exists, made by another recipe ({', '.join(changed[:5])} differ); {advice}"
            )
        if alone and theirs != identity:
            storage.write_json(marker, identity)
        return
    if (not storage.is_remote(out) and Path(out).is_file()) or made(out):
        if storage.exists(marker):  # another job has come meanwhile
            return claim(out, identity, alone)
        raise ManifestMismatch(f"{out}: exists and is not a corpus; choose another place")
    storage.write_json(marker, identity)


def made(out: str) -> list[str]:
    """Names in an output, but for marks and files that were never finished."""
    names = storage.list_names(out)
    return [n for n in names if n not in MARKS and not storage.is_temporary(n)]


def differing(theirs: dict, ours: dict) -> list[str]:
    """Keys of a recipe in which two differ; what the older one does not know has its default."""
    known = Recipe(dataset="x").identity()

    def filled(given: dict, defaults: dict) -> dict:
        both = {**defaults, **given}
        return {
            key: filled(value, defaults[key])
            if isinstance(value, dict) and isinstance(defaults.get(key), dict)
            else value
            for key, value in both.items()
        }

    theirs = filled(theirs, known) if "dataset" in theirs else theirs
    return [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]


def corpus_of(out: str) -> Manifest | None:
    """The manifest of an output; None where it is not complete."""
    return read_manifest(out) if storage.exists(storage.join(out, MANIFEST)) else None


def new_sources(
    recipe: Recipe, key: bytes, sources: list[RecordingFile], before: Manifest | None
) -> list[RecordingFile]:
    """Recordings that the corpus does not have, those that failed before among them.

    Those that it has on this machine's disk are hashed again; of others the length is compared.

    Raises:
        ManifestMismatch: One that it has is another file now.
    """
    rows = before.sessions if before else []
    have = {s.source: s for s in rows if not s.is_removed}
    labels = {source_label(key, source.name): source for source in sources}
    changed = [
        label
        for label, source in log.progress(labels.items(), "comparing recordings with the corpus")
        if label in have and is_another(source, have[label])
    ]
    if changed:
        raise ManifestMismatch(
            f"{recipe.out}: {', '.join(changed[:5])} changed since the corpus was made; "
            "rebuild=true makes it anew, data_prep/remove.py takes sessions out"
        )
    gone = have.keys() - labels.keys()
    if gone:
        log.say(
            f"{len(gone)} recordings of the corpus are not in {recipe.source or 'memory'}, such as "
            f"{min(gone)}; their windows stay (data_prep/remove.py takes sessions out)"
        )
    return [source for label, source in labels.items() if label not in have]


def is_another(source: RecordingFile, session: Session) -> bool:
    """Whether a recording is not the one that a session was made of, as far as is seen for free."""
    if isinstance(source, InMemory):
        return source.sha256 != session.source_sha256
    if 0 < session.source_bytes != source.bytes > 0:
        return True
    if storage.is_remote(source.path):
        return source.sha256 not in ("", session.source_sha256)
    try:
        return sha256_of(source.path) != session.source_sha256
    except OSError as e:
        log.warn(
            f"{session.source}: cannot be read now ({e.strerror}); the corpus keeps what it has"
        )
        return False


def withdrawn(out: str) -> dict:
    """What removals have left: hashes of recordings, and the number of the next shard.

    A file of its own: it outlives the manifest, so that a corpus which is made anew has neither
    them nor a shard under a name that was used.
    """
    path = storage.join(out, WITHDRAWN)
    if not storage.exists(path):
        return {"recordings": [], "next_shard": 0}
    found = storage.read_json(path)
    kinds = {"recordings": list, "next_shard": int}
    if not isinstance(found, dict) or {k: type(v) for k, v in found.items()} != kinds:
        raise ManifestMismatch(f"{path}: not what removals leave there; restore it")
    return found


def withdraw(out: str, recordings: Iterable[str], next_shard: int) -> None:
    """Write what `withdrawn` reads."""
    left = {"recordings": sorted(recordings), "next_shard": next_shard}
    storage.write_json(storage.join(out, WITHDRAWN), left)


def removed_hashes(sessions: Iterable[Session], past: dict) -> set[str]:
    """Hashes of recordings that were taken out: of the rows that they left, and `withdrawn`."""
    return {s.source_sha256 for s in sessions if s.is_removed} | set(past["recordings"])


def put_manifest(
    out: str, manifest: Manifest, before: Manifest | None, check: Callable[[], None]
) -> None:
    """Put a manifest in the place of the one that it was made of.

    Args:
        check: Raises where the output is another job's by now.
    Raises:
        ManifestMismatch: There is another one by now, whatever any lease says.
    """
    expected = {before.fingerprint if before else "", manifest.fingerprint}

    def fence() -> None:
        check()
        found = corpus_of(out)
        if (found.fingerprint if found else "") not in expected:
            raise ManifestMismatch(
                f"{out}: another job has changed the corpus meanwhile; run the same command again"
            )

    storage.write_json(storage.join(out, MANIFEST), manifest.dump(), fence)


def commit(
    recipe: Recipe,
    there: Manifest | None,
    spools: list[dict],
    shards: list[Shard],
    failed: list,
    check: Callable[[], None],
) -> Manifest:
    """Write the manifest of what was there and what is new; then remove what is needed no more.

    Args:
        there: The manifest at the output, of which nothing is kept with `rebuild`.
        check: Raises where the output is another job's by now.
    """
    sessions = [Session.model_validate(s["session"]) for s in spools]
    before = None if recipe.rebuild else there
    streams = before.streams if before else describe(streams_among(spools))
    if before:
        sessions, shards = [*before.sessions, *sessions], [*before.shards, *shards]
    lost = {s.id for s in there.sessions if not s.is_removed} if there else set()
    if lost := sorted(lost - {s.id for s in sessions}):
        log.warn(
            f"{recipe.out}: {len(lost)} sessions of the corpus that was there are not in the new "
            f"one: {', '.join(lost[:5])}"
        )
    manifest = Manifest.of(
        version=before.version if before else VERSION,
        bin_size_ms=recipe.bin_size_ms,
        window_bins=recipe.window_bins,
        streams=streams,
        recipe=recipe.identity(),
        recipe_sha256=recipe.sha256(),
        sessions=sessions,
        shards=shards,
        failed=failed,
    )
    put_manifest(recipe.out, manifest, there, check)
    remove_strays(recipe.out, manifest)
    return manifest


def remove_strays(out: str, manifest: Manifest) -> None:
    """Remove spools, shards that a manifest does not name, and files that were never finished."""
    for name in storage.list_names(out):
        if storage.is_temporary(name) and not name.startswith(f".{FILE}"):
            storage.remove(storage.join(out, name))
    named = {s.name for s in manifest.shards}
    for name in storage.list_names(storage.join(out, "shards")):
        if name.split(".")[0] not in named:
            storage.remove(storage.join(out, "shards", name))
    # A host that is cut off may still be writing into it; the next run removes that.
    with contextlib.suppress(OSError, StoreFailed):
        storage.remove(storage.join(out, "spool"))

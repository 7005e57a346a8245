"""What lies at the output of a preparation: whose it is, what it has already, what is committed.

`recipe.json` marks a folder as the output of one recipe before anything else is written; the
manifest comes last.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import ManifestMismatch, StoreFailed
from ndt3_dist.prep.lease import FILE
from ndt3_dist.prep.privacy import source_label
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.sources import Source
from ndt3_dist.shards.format import (
    MANIFEST,
    REMOVED,
    Manifest,
    Session,
    Shard,
    fingerprint,
    read_manifest,
)

WITHDRAWN = "removed.json"
STREAMS = {
    "spikes": "counts per bin, uint8 (bins, channels of all arrays side by side)",
    "covariates": "recorded value / scale, float32 (bins, dims), NaN where not valid",
}


def claim(out: str, identity: dict) -> None:
    """Take an output for what is to be made of it.

    Raises:
        ManifestMismatch: It is not empty, and for something else.
    """
    marker = storage.join(out, "recipe.json")
    if storage.exists(marker):
        theirs = storage.read_json(marker)
        if theirs != identity:
            changed = [k for k, v in identity.items() if theirs.get(k) != v]
            raise ManifestMismatch(
                f"{out}: exists, made by another recipe ({', '.join(changed[:5])} differ); "
                "choose another out=, or remove it first"
            )
        return
    names = [n for n in storage.list_names(out) if not storage.is_temporary(n)]
    if (not storage.is_remote(out) and Path(out).is_file()) or names:
        if storage.exists(marker):  # another job has come meanwhile
            return claim(out, identity)
        raise ManifestMismatch(f"{out}: exists and is not a corpus; choose another out=")
    storage.write_json(marker, identity)


def corpus_of(recipe: Recipe) -> Manifest | None:
    """The manifest of the output; None where it is not complete, or is to be made anew."""
    path = storage.join(recipe.out, MANIFEST)
    if not storage.exists(path):
        return None
    if recipe.rebuild:
        storage.remove(path)  # first: from here to the new manifest there is no corpus
        return None
    return read_manifest(recipe.out)


def new_sources(
    recipe: Recipe, key: bytes, sources: list[Source], before: Manifest | None
) -> list[Source]:
    """Recordings that the corpus does not have, those that failed before among them.

    Those that it has on this machine's disk are hashed again; remote ones are taken by name.

    Raises:
        ManifestMismatch: One that it has is another file now.
    """
    rows = before.sessions if before else []
    have = {s.source: s.source_sha256 for s in rows if s.dataset != REMOVED}
    labels = {source_label(key, source.name): source for source in sources}
    changed = [
        label
        for label, source in labels.items()
        if label in have and hash_now(source, label) not in ("", have[label])
    ]
    if changed:
        raise ManifestMismatch(
            f"{recipe.out}: {', '.join(changed[:5])} changed since the corpus was made; "
            "rebuild=true makes it anew, data_prep/remove.py takes sessions out"
        )
    gone = have.keys() - labels.keys()
    if gone:
        log.say(
            f"{len(gone)} recordings of the corpus are not in {recipe.source}, such as "
            f"{min(gone)}; their windows stay (data_prep/remove.py takes sessions out)"
        )
    return [source for label, source in labels.items() if label not in have]


def hash_now(source: Source, label: str) -> str:
    """The sha256 of a recording, where it costs no transfer; "" where it is not known."""
    if storage.is_remote(source.path):
        return source.sha256
    try:
        return storage.sha256_file(source.path)
    except OSError as e:
        log.warn(f"{label}: cannot be read now ({e.strerror}); the corpus keeps what it has of it")
        return ""


def withdrawn(out: str) -> dict:
    """What removals have left: hashes of recordings, and the number of the next shard.

    It outlives the manifest, so that a corpus which is made anew has neither them nor a shard under
    a name that was used.
    """
    path = storage.join(out, WITHDRAWN)
    return storage.read_json(path) if storage.exists(path) else {"recordings": [], "next_shard": 0}


def commit(
    recipe: Recipe,
    before: Manifest | None,
    spools: list[dict],
    shards: list[Shard],
    failed: list,
    check: Callable[[], None],
) -> Manifest:
    """Write the manifest of what was there and what is new; then remove what is needed no more.

    Args:
        check: Raises where the output is another job's by now.
    """
    sessions = [Session.model_validate(s["session"]) for s in spools]
    if before:
        sessions, shards = [*before.sessions, *sessions], [*before.shards, *shards]
    manifest = Manifest(
        fingerprint=fingerprint(sessions, shards, recipe.bin_size_ms, recipe.window_bins),
        bin_size_ms=recipe.bin_size_ms,
        window_bins=recipe.window_bins,
        streams=STREAMS,
        recipe=recipe.identity(),
        recipe_sha256=recipe.sha256(),
        sessions=sessions,
        shards=shards,
        failed=failed,
    )
    storage.write_json(storage.join(recipe.out, MANIFEST), manifest.model_dump(mode="json"), check)
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

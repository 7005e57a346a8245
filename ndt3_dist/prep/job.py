"""Run a preparation: session tasks, then shard tasks, then the manifest.

The driver decides, workers do: any number of workers gives the same bytes. A recording that fails
fails alone, by name; the manifest lists it and the rest is committed. Recordings that are added
later become sessions and shards behind those that are there, which stay as they are. A job that is
killed is started again, and redoes what was not finished.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, NoRoom, Withdrawn
from ndt3_dist.lease import Lease
from ndt3_dist.prep.output import (
    claim,
    commit,
    corpus_of,
    new_sources,
    remove_strays,
    removed_hashes,
    withdrawn,
)
from ndt3_dist.prep.pool import RunAll
from ndt3_dist.prep.privacy import key_of, pseudonym, reason_of, source_label
from ndt3_dist.prep.progress import Progress, StageTimes, describe, warn_of_rate
from ndt3_dist.prep.reading import check_calls
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import RecordingFile, find_recordings, held_in_memory
from ndt3_dist.prep.stages import ShardPlan, plan_shards, session_task, shard_task
from ndt3_dist.prep.workers import with_address, workers
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import Failure, Manifest, Shard


def prepare(recipe: Recipe, recordings: Sequence[Recording] | None = None) -> Manifest:
    """Make the corpus of a recipe at `recipe.out`, add what is new to it, or find it complete.

    Args:
        recipe: What to make of them.
        recordings: Those that are in memory, in place of files at `recipe.source`.
    Returns:
        The committed manifest; its `failed` lists recordings that could not be used.
    Raises:
        BadInput: Nothing to read, nothing usable, or no room.
        ManifestMismatch: The output holds something else or another recipe's corpus, a recording
            of it has changed, or another job is at work on it.
    """
    if not recipe.out:
        raise BadInput("out is empty; give out=FOLDER for the corpus")
    recipe = with_address(recipe)
    check_places(recipe)
    check_calls(recipe)
    stages = StageTimes()
    stages.begin("looking for recordings")
    key = key_of(recipe)
    with log.waiting(f"looking for recordings in {recipe.source or 'memory'}"):
        sources = find_recordings(recipe) if recordings is None else held_in_memory(recordings)
    identity = recipe.identity()
    if key:  # another one would give the same people other names
        identity["privacy.key_file"] = pseudonym(key, "key", "")
    claim(recipe.out, identity)
    with Lease(recipe.out) as lease:
        claim(recipe.out, identity, alone=True)  # two recipes may have come at once
        there = corpus_of(recipe.out)
        before = None if recipe.rebuild else there
        new = new_sources(recipe, key, sources, before)
        if before and not new:
            remove_strays(recipe.out, before)
            if not before.failed:
                log.say(f"{recipe.out}: complete already, nothing to do")
                return before
            log.say(f"{recipe.out}: what had failed is gone from the source; nothing else is new")
            return commit(recipe, there, [], [], [], lease.check)
        stages.begin("starting workers")
        with workers(recipe, new) as run_all:
            stages.begin("session tasks")
            spools, failed = run_sessions(recipe, key, new, before, run_all, lease)
            spools, claims = one_of_each(recipe, spools, before)
            failed = sorted([*failed, *claims], key=lambda f: f.source)
            if not spools and not before:
                first = f"{failed[0].source}: {failed[0].error}" if failed else "was taken out"
                raise BadInput(f"none of {len(new)} recordings could be used; the first: {first}")
            lease.check()
            stages.begin("dealing windows to shards")
            with log.waiting("dealing windows to shards"):
                plans = plans_of(recipe, spools, there) if spools else []
            stages.begin("shard tasks")
            shards = run_shards(recipe, plans, run_all, lease)
            stages.begin("ending workers")
        stages.begin("manifest")
        with log.waiting("writing the manifest"):
            manifest = commit(recipe, there, spools, shards, failed, lease.check)
    log.say(stages.table())
    return manifest


def check_places(recipe: Recipe) -> None:
    """Refuse places that are not meant, or mean something else on each host of a cluster."""
    for name, place in (("source", recipe.source), ("out", recipe.out)):
        if re.match(r"\w+:/(?!/)", place):
            raise BadInput(f"{name} {place}: has one slash; expected two, as in s3://bucket/folder")
        absolute = storage.is_remote(place) or Path(place).is_absolute()
        if place and not absolute and recipe.ray_address != "local":
            raise BadInput(
                f"{name} {place}: is relative, and each host of a cluster has its own working "
                "folder; give the absolute path of a folder that all hosts share, or a URL"
            )


def run_sessions(
    recipe: Recipe,
    key: bytes,
    sources: list[RecordingFile],
    before: Manifest | None,
    run_all: RunAll,
    lease: Lease,
):
    """Run a session task for each source; finished spools by session id, and the failures."""
    spools, failed, progress = [], [], Progress(len(sources))
    rows = before.sessions if before else []
    removed = frozenset(removed_hashes(rows, withdrawn(recipe.out)))
    there = frozenset(s.source_sha256 for s in rows) - removed
    arguments = [(recipe, key, source) for source in sources]
    running = run_all(session_task, arguments, shared=(removed, there))
    for number, result in progress.each(running):
        lease.still_held()
        source = sources[number]
        label = source_label(key, source.name)
        if isinstance(result, NoRoom):
            raise result  # the next recording would not fit either
        if isinstance(result, Withdrawn):  # nothing that is kept may name it again
            log.warn(f"{label}: was taken out of this corpus; remove the file from the source")
            progress.failed += 1
            continue
        check_shared(recipe, source, result, label)
        if isinstance(result, Exception):
            reason = reason_of(result, key, source)
            failed.append(Failure(source=label, error=reason))
            progress.failed += 1
            log.note(f"failed: {label}: {reason}")
        else:
            spools.append(result)
            progress.add(result)
            warn_of_rate(recipe, result)
            if not sys.stderr.isatty():
                log.say(f"[{len(spools) + len(failed)}/{len(sources)}] {describe(result)}")
    if spools:
        log.say(progress.summary())
    return (
        sorted(spools, key=lambda s: s["session"]["id"]),
        sorted(failed, key=lambda f: f.source),
    )


def check_shared(recipe: Recipe, source: RecordingFile, result, label: str) -> None:
    """Refuse hosts that do not share a folder: all their recordings would fail, or be elsewhere."""
    local = not storage.is_remote(source.path)
    if local and isinstance(result, FileNotFoundError) and str(result.filename) == source.path:
        missing, where = source.path, "source="
    elif isinstance(result, dict) and not storage.is_remote(recipe.out):
        missing, where = result["base"] + ".json", "out="
    else:
        return
    if storage.exists(missing) == isinstance(result, dict):
        return
    what = label if missing == source.path else missing
    raise BadInput(
        f"{what}: there on some hosts of {recipe.ray_address} and not on others; {where} must "
        "be a folder that all of them share, or a URL"
    )


def one_of_each(
    recipe: Recipe, spools: list[dict], before: Manifest | None
) -> tuple[list[dict], list[Failure]]:
    """Spools whose session no other claims, and the failures of those that claim one together.

    Which of them is right cannot be known: none is taken, and one that the corpus has stays. Of
    files with the same bytes the first by name is taken.
    """
    claims: dict[str, list[str]] = {s.id: [s.source] for s in before.sessions} if before else {}
    first: dict[str, str] = {}
    for session in sorted((s["session"] for s in spools), key=lambda s: s["source"]):
        if first.setdefault(session["source_sha256"], session["source"]) == session["source"]:
            claims.setdefault(session["id"], []).append(session["source"])
    by_name = recipe.reader == "nwb" and recipe.session_from == "content"
    advice = "give the files different session ids, "
    advice += "say session_from=file_name where their names have them, " if by_name else ""
    advice += "or prepare them as two datasets"
    kept, failed = [], []
    for spool in spools:
        session, source = spool["session"]["id"], spool["session"]["source"]
        same = first[spool["session"]["source_sha256"]]
        others = [name for name in claims.get(session, []) if name != source]
        if same == source and not others:
            kept.append(spool)
            continue
        reason = f"is the same file as {same}"
        if same == source:
            reason = f"is session {session}, as {', '.join(others[:3])} is; {advice}"
        failed.append(Failure(source=source, error=reason))
        log.note(f"failed: {source}: {reason}")
    return kept, failed


def plans_of(recipe: Recipe, spools: list[dict], there: Manifest | None) -> list[ShardPlan]:
    """Shards that new spools make, named on from those that are there."""
    before = None if recipe.rebuild else there
    used = max(there.next_shard() if there else 0, withdrawn(recipe.out)["next_shard"])
    plans = plan_shards(spools, recipe, before, used)
    if not plans and not before:
        raise BadInput("every window was rejected; the lines above say how many of each session")
    storage.check_room(recipe.out, sum(s["bytes"] for s in spools))
    return plans


def run_shards(
    recipe: Recipe, plans: list[ShardPlan], run_all: RunAll, lease: Lease
) -> list[Shard]:
    """Merge spools into shards; raises the first error of a shard task."""
    entries: list = [None] * len(plans)
    running = run_all(shard_task, [(recipe, plan) for plan in plans], shared=(lease.mine["id"],))
    for number, result in log.progress(running, "shards", total=len(plans)):
        lease.still_held()
        if isinstance(result, BaseException):
            raise result
        entries[number] = Shard(**result)
    return entries

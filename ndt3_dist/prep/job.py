"""Run a preparation on Ray: session tasks, then shard tasks, then the manifest.

The driver decides, workers do: any number of workers gives the same bytes. A recording that fails
fails alone, by name; the manifest lists it and the rest is committed. `recipe.json` marks a folder
as the output of one recipe before anything else is written; the manifest goes first when an output
is rebuilt and comes last when it is complete.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput, ManifestMismatch, Ndt3DistError, NoRoom
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.spool import find_sources, plan_shards, session_task, shard_task
from ndt3_dist.shards.format import Failure, Manifest, Session, Shard, fingerprint, read_manifest

STREAMS = {
    "spikes": "counts per bin, uint8 (bins, channels of all arrays side by side)",
    "covariates": "recorded value / scale, float32 (bins, dims), NaN where not valid",
}


def prepare(recipe: Recipe) -> Manifest:
    """Make the corpus of a recipe at `recipe.out`, or find it complete.

    Returns:
        The committed manifest; its `failed` lists recordings that could not be used.
    Raises:
        BadInput: Nothing to read, nothing usable, or no room.
        ManifestMismatch: The output holds something else or another recipe's corpus.
    """
    if not recipe.out:
        raise BadInput("out is empty; give out=FOLDER for the corpus")
    sources = find_sources(recipe)
    finished = claim(recipe, sources)
    if finished:
        log.say(f"{recipe.out}: complete already, nothing to do")
        return finished
    with ray_pool(recipe, len(sources)) as run_all:
        spools, failed = run_sessions(recipe, sources, run_all)
        check_ids(spools)
        if not spools:
            first = f"{failed[0].source}: {failed[0].error}"
            raise BadInput(f"none of {len(sources)} recordings could be used; the first: {first}")
        shards = run_shards(recipe, spools, run_all)
    sessions = [Session.model_validate(s["session"]) for s in spools]
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
    storage.write_json(storage.join(recipe.out, "manifest.json"), manifest.model_dump(mode="json"))
    if not failed:  # with failures they stay, so that a second run redoes only those
        storage.remove(storage.join(recipe.out, "spool"))
    return manifest


def claim(recipe: Recipe, sources: list[tuple[str, str]]) -> Manifest | None:
    """Take `recipe.out` for this recipe; the manifest where it is complete for these sources.

    Raises:
        ManifestMismatch: It is not empty and not this recipe's.
    """
    out, marker = recipe.out, storage.join(recipe.out, "recipe.json")
    if storage.exists(marker):
        theirs = storage.read_json(marker)
        if theirs != recipe.identity():
            changed = [k for k, v in recipe.identity().items() if theirs.get(k) != v]
            raise ManifestMismatch(
                f"{out}: exists, made by another recipe ({', '.join(changed)} differ); "
                "choose another out=, or remove it first"
            )
    elif Path(out).is_file() or storage.list_names(out):
        raise ManifestMismatch(f"{out}: exists and is not a corpus; choose another out=")
    else:
        storage.write_json(marker, recipe.identity())
    manifest_path = storage.join(out, "manifest.json")
    if not storage.exists(manifest_path):
        return None
    manifest = read_manifest(out)
    have = {s.source: s.source_sha256 for s in manifest.sessions}
    # Hashed only where the names agree: a recording that failed may not even be readable.
    same = not manifest.failed and have.keys() == {source for _, source in sources}
    if same and all(have[source] == storage.sha256_file(path) for path, source in sources):
        return manifest
    log.say(f"{out}: recordings were added, changed or failed before; making the corpus anew")
    storage.remove(manifest_path)  # first: from here to the new manifest there is no corpus
    return None


RunAll = Callable[[Callable, list[tuple]], Iterator[tuple[int, Any]]]


class ray_pool:
    """A Ray to run tasks on; ours listens on the loopback address and ends with the block.

    Entering gives `run_all(task, argument_tuples)`, which yields (number, result or exception) as
    tasks end.
    """

    def __init__(self, recipe: Recipe, tasks: int):
        self.recipe = recipe
        self.workers = recipe.num_workers or min(os.cpu_count() or 1, max(tasks, 1))

    def __enter__(self) -> RunAll:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        # GPUs are none of preparation's business; this silences Ray's notice about it.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self.ray = ray
        if self.recipe.ray_address == "local":
            ray.init(
                num_cpus=self.workers,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(
                address=self.recipe.ray_address, log_to_driver=False, logging_level=logging.ERROR
            )
        return self._run_all

    def _run_all(self, task: Callable, arguments: list[tuple]) -> Iterator[tuple[int, Any]]:
        from ray.exceptions import RayError, RayTaskError

        ray = self.ray
        remote = ray.remote(num_cpus=1, max_retries=3)(task)
        pending = {remote.remote(*args): number for number, args in enumerate(arguments)}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for ref in done:
                number = pending.pop(ref)
                try:
                    yield number, ray.get(ref)
                except RayTaskError as e:
                    yield number, e.cause
                except RayError as e:
                    yield number, e

    def __exit__(self, *_) -> None:
        self.ray.shutdown()


def run_sessions(recipe: Recipe, sources: list, run_all: RunAll) -> tuple[list[dict], list]:
    """Run a session task for each source; finished spools by session id, and the failures."""
    spools, failed = [], []
    running = run_all(session_task, [(recipe, path, source) for path, source in sources])
    for number, result in log.progress(running, "sessions", total=len(sources)):
        path, source = sources[number]
        if isinstance(result, NoRoom):
            raise result  # the next recording would not fit either
        if isinstance(result, Exception):
            # The manifest holds no absolute path, and the line says the file's name once.
            reason = " ".join(str(result).split()).removeprefix(f"{path}: ").replace(path, source)
            if not isinstance(result, Ndt3DistError | OSError):
                # Not foreseen (a worker out of memory, a defect): its kind helps to report it.
                reason = f"{type(result).__name__}: {reason[:500]}"
            failed.append(Failure(source=source, error=reason))
            print(f"failed: {source}: {failed[-1].error}", file=sys.stderr, flush=True)
        else:
            spools.append(result)
            if not sys.stderr.isatty():
                log.say(f"[{len(spools) + len(failed)}/{len(sources)}] {describe(result)}")
    return (
        sorted(spools, key=lambda s: s["session"]["id"]),
        sorted(failed, key=lambda f: f.source),
    )


def describe(spool: dict) -> str:
    """One line about a finished session."""
    session = Session.model_validate(spool["session"])
    kept = ", ".join(f"{w.kept} {split}" for split, w in session.windows.items()) or "no"
    rejected = sum(sum(w.rejected.values()) for w in session.windows.values())
    done_before = " (done before)" if spool["reused"] else ""
    return f"{session.id}: {kept} windows, {rejected} rejected{done_before}"


def check_ids(spools: list[dict]) -> None:
    """Refuse two recordings that claim to be the same session."""
    seen: dict[str, str] = {}
    for spool in spools:
        session, source = spool["session"]["id"], spool["session"]["source"]
        if session in seen:
            raise BadInput(
                f"{source} and {seen[session]} are both session {session}; give the files "
                "different session ids, or prepare them as two datasets"
            )
        seen[session] = source


def run_shards(recipe: Recipe, spools: list[dict], run_all: RunAll) -> list[Shard]:
    """Merge all spools into shards; raises the first error of a shard task."""
    plans = plan_shards(spools, recipe)
    if not plans:
        raise BadInput("every window was rejected; the lines above say how many of each session")
    storage.remove(storage.join(recipe.out, "shards"))  # of an earlier corpus or a killed run
    storage.check_room(recipe.out, sum(s["bytes"] for s in spools))
    entries: list = [None] * len(plans)
    running = run_all(shard_task, [(recipe, plan, spools) for plan in plans])
    for number, result in log.progress(running, "shards", total=len(plans)):
        if isinstance(result, BaseException):
            raise result
        entries[number] = Shard(**result)
    return entries

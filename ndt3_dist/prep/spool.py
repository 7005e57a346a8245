"""The two kinds of task of a preparation, each a pure function that may be repeated.

A session task turns one recording into a spool (a tar, its index and a JSON that is written last);
a shard task merges windows of many spools into one shard. Both overwrite what an earlier, killed
attempt left, with the same bytes.
"""

import hashlib
from pathlib import Path

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ShardCorrupt
from ndt3_dist.prep.readers.read import read_recording
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.windows import cut, relative_source
from ndt3_dist.shards.format import (
    MEMBERS,
    SPLITS,
    Session,
    index_path,
    sample_key,
    shard_path,
)
from ndt3_dist.shards.npy import parse_npy
from ndt3_dist.shards.write import write_shard

DESCRIPTION = (
    "start_bin",
    "bins",
    "tokens",
    "context_tokens",
    "spike_targets",
    "covariate_targets",
)
"""Index fields that describe a sample whatever file it lies in."""


def spool_base(out: str, source: str) -> str:
    """Where the spool of a source goes: a name made from its path, safe for any file system."""
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    return storage.join(out, "spool", name)


def read_spool(out: str, source: str, source_sha256: str, recipe_sha256: str) -> dict | None:
    """The finished spool of a source, or None where it is absent or of another file or recipe."""
    path = spool_base(out, source) + ".json"
    if not storage.exists(path):
        return None
    spool = storage.read_json(path)
    same = spool["recipe_sha256"] == recipe_sha256 and spool["source_sha256"] == source_sha256
    return spool if same else None


def session_task(recipe: Recipe, path: str, source: str) -> dict:
    """Turn one recording into a spool, or find the one that an earlier run finished.

    Returns:
        session (manifest entry), counts by split, base (path of the spool) and reused.
    """
    source_sha256 = storage.sha256_file(path)
    base = spool_base(recipe.out, source)
    found = read_spool(recipe.out, source, source_sha256, recipe.sha256())
    if found:
        return {**found, "base": base, "reused": True}
    recording = read_recording(path, recipe)
    session, samples = cut(recording, recipe, source, source_sha256)
    size = sum(len(data) + 1024 for s in samples for data in s[2].values())
    storage.check_room(base, size)
    written = write_shard(
        base + ".tar", base + ".index.npy", ((key, members, f) for _, key, members, f in samples)
    )
    spool = {
        "recipe_sha256": recipe.sha256(),
        "source_sha256": source_sha256,
        "session": session.model_dump(mode="json"),
        "splits": [SPLITS.index(split) for split, *_ in samples],
        "sha256": written["sha256"],
        "index_sha256": written["index_sha256"],
        "bytes": written["bytes"],
    }
    storage.write_json(base + ".json", spool)
    return {**spool, "base": base, "reused": False}


def order_key(recipe_sha256: str, key: str) -> bytes:
    """Rank of a window in the keyed-hash order that spreads sessions over shards."""
    return hashlib.blake2b(key.encode(), key=bytes.fromhex(recipe_sha256), digest_size=16).digest()


def plan_shards(spools: list[dict], recipe: Recipe) -> list[dict]:
    """Deal all windows to shards: one split a shard, windows in keyed-hash order, cut by bytes.

    Args:
        spools: What the session tasks returned, in order of session id.
        recipe: For its hash and `shard_mb`.
    Returns:
        For each shard its name, split and samples as (spool number, record number).
    """
    windows: dict[str, list] = {split: [] for split in SPLITS}
    for number, spool in enumerate(spools):
        index = load_spool_index(spool)
        session = spool["session"]["id"]
        for record, split in enumerate(spool["splits"]):
            key = sample_key(session, int(index[record]["start_bin"]))
            size = int(sum(s + 1024 for s in index[record]["sizes"].tolist() if s))
            windows[SPLITS[split]].append((order_key(recipe.sha256(), key), number, record, size))
    shards: list[dict] = []
    for split, found in windows.items():
        filled = 0.0
        for _, number, record, size in sorted(found):
            if not shards or shards[-1]["split"] != split or filled + size > recipe.shard_mb * 1e6:
                shards.append({"name": f"{len(shards):06d}", "split": split, "samples": []})
                filled = 0.0
            shards[-1]["samples"].append((number, record))
            filled += size
    return shards


def load_spool_index(spool: dict) -> np.ndarray:
    """The index of a spool, checked against the hash in its JSON."""
    path = spool["base"] + ".index.npy"
    data = storage.read_bytes(path)
    if storage.sha256_bytes(data) != spool["index_sha256"]:
        raise ShardCorrupt(f"{path}: changed since it was written; remove the spool and run again")
    return parse_npy(data, path)


def shard_task(recipe: Recipe, plan: dict, spools: list[dict]) -> dict:
    """Merge windows of several spools into one shard; returns its manifest entry.

    Args:
        recipe: For `out`.
        plan: One entry of `plan_shards`.
        spools: All spools in order of session id.
    """
    tars: dict[int, bytes] = {}
    indexes: dict[int, np.ndarray] = {}
    for number in sorted({n for n, _ in plan["samples"]}):
        base = spools[number]["base"]
        tars[number] = storage.read_bytes(base + ".tar")
        if storage.sha256_bytes(tars[number]) != spools[number]["sha256"]:
            raise ShardCorrupt(f"{base}.tar: changed since it was written; remove it and run again")
        indexes[number] = load_spool_index(spools[number])

    def samples():
        for number, record in plan["samples"]:
            entry = indexes[number][record]
            session = Session.model_validate(spools[number]["session"])
            members = {
                stream: tars[number][offset : offset + size]
                for stream, offset, size in zip(
                    MEMBERS, entry["offsets"].tolist(), entry["sizes"].tolist(), strict=True
                )
                if size
            }
            fields = {name: entry[name] for name in DESCRIPTION} | {"session": number}
            yield sample_key(session.id, int(entry["start_bin"])), members, fields

    written = write_shard(
        shard_path(recipe.out, plan["name"]), index_path(recipe.out, plan["name"]), samples()
    )
    return {"name": plan["name"], "split": plan["split"], **written}


def find_sources(recipe: Recipe) -> list[tuple[str, str]]:
    """Recordings of a recipe, sorted, as (path, path below the recipe's source).

    Raises:
        BadInput: The source is not there, or no file of it matches the pattern.
    """
    root = Path(recipe.source)
    if not recipe.source or not root.exists():
        raise BadInput(
            f"source {recipe.source or '(empty)'}: no such file or folder; "
            "give source=FILE or source=FOLDER"
        )
    files = [root] if root.is_file() else sorted(root.glob(recipe.pattern))
    if not files:
        raise BadInput(f"source {root}: no file matches {recipe.pattern}")
    return [(str(p), relative_source(p, root)) for p in files]

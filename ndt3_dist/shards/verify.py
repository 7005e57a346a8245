"""Check every byte of a corpus."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ndt3_dist import log, storage
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.corpus import Corpus, read_index
from ndt3_dist.shards.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    index_path,
    read_manifest,
    shard_path,
)


def shard_problems(corpus: str, manifest: Manifest, shard: Shard) -> list[str]:
    """What is wrong with the length or the hashes of a shard and its index, a line each."""
    problems = same_bytes(corpus, shard)
    if not problems:
        try:
            read_index(corpus, manifest, shard)
        except ShardCorrupt as e:
            problems = [str(e)]
    return problems


def same_bytes(corpus: str, shard: Shard) -> list[str]:
    """What of a shard and its index does not have its length or hash, a line each."""
    tar, index = shard_path(corpus, shard.name), index_path(corpus, shard.name)
    try:
        if storage.size(tar) != shard.bytes:
            return [f"{tar}: {storage.size(tar)} bytes, manifest {shard.bytes}"]
        for path, expected in ((tar, shard.sha256), (index, shard.index_sha256)):
            if storage.sha256_file(path) != expected:
                return [f"{path}: its sha256 is not the manifest's"]
    except FileNotFoundError as e:
        return [f"{e.filename or tar}: missing"]
    return []


def verify_corpus(path: str) -> list[str]:
    """Check every hash, count and sample of a corpus.

    Returns:
        One line for each thing that is wrong; empty for a sound corpus.
    """
    path = str(path).rstrip("/")
    manifest = read_manifest(path)
    named = {s.name for s in manifest.shards}
    names = storage.list_names(storage.join(path, "shards"))
    if strays := [n for n in names if n.split(".")[0] not in named]:
        log.warn(
            f"{path}/shards: {len(strays)} files are not the manifest's, such as {strays[0]}: a "
            "job is at work, or one was interrupted and has to be run again"
        )
    if storage.sha256_bytes(storage.canonical_json(manifest.recipe)) != manifest.recipe_sha256:
        return [f"{path}/{MANIFEST}: its recipe is not the one of recipe_sha256; restore it"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading and hashing release the GIL
        found = pool.map(lambda shard: shard_problems(path, manifest, shard), manifest.shards)
        each = log.progress(found, "hashing, shards", total=len(manifest.shards))
        problems = [p for of_shard in each for p in of_shard]
        if problems:
            return problems
        for split in sorted({s.split for s in manifest.shards}):
            corpus = Corpus(path, (split,))
            starts = range(0, len(corpus), PART)
            found = pool.map(partial(window_problems, corpus), starts)
            each = log.progress(found, f"reading {split}, thousands of windows", total=len(starts))
            problems += [p for of_part in each for p in of_part]
            corpus.close()
    return problems


PART = 1000
"""Windows that a thread reads at once."""


def window_problems(corpus: Corpus, start: int) -> list[str]:
    """What is wrong with the windows of a part, a line each."""
    problems = []
    for number in range(start, min(start + PART, len(corpus))):
        try:
            corpus.read(number)
        except ShardCorrupt as e:
            problems.append(str(e))
    return problems

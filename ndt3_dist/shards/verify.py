"""Check every byte of a corpus."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ndt3_dist import log, storage
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.corpus import Corpus, read_index
from ndt3_dist.shards.manifest import MANIFEST, Shard, read_manifest, shard_path


def shard_problems(corpus: str, shard: Shard) -> list[str]:
    """What is wrong with the length or the hashes of a shard and its index, a line each."""
    tar = shard_path(corpus, shard.name)
    try:
        if storage.size(tar) != shard.bytes:
            return [f"{tar}: {storage.size(tar)} bytes, manifest {shard.bytes}"]
        if storage.sha256_file(tar) != shard.sha256:
            return [f"{tar}: sha256 is not the manifest's"]
        read_index(corpus, shard)
    except FileNotFoundError:
        return [f"{tar}: missing"]
    except ShardCorrupt as e:
        return [str(e)]
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
        found = pool.map(lambda shard: shard_problems(path, shard), manifest.shards)
        each = log.progress(found, "shards", total=len(manifest.shards))
        problems = [p for of_shard in each for p in of_shard]
        if problems:
            return problems
        for split in sorted({s.split for s in manifest.shards}):
            corpus = Corpus(path, (split,))
            starts = range(0, len(corpus), PART)
            found = pool.map(partial(window_problems, corpus), starts)
            each = log.progress(found, f"{split} windows", total=len(starts))
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

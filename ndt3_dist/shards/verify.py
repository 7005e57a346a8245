"""Check every byte of a corpus."""

from ndt3_dist import storage
from ndt3_dist.errors import ShardCorrupt
from ndt3_dist.shards.format import Shard, read_manifest, shard_path
from ndt3_dist.shards.read import Corpus, read_index


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
    problems = [p for shard in manifest.shards for p in shard_problems(path, shard)]
    if problems:
        return problems
    for split in sorted({s.split for s in manifest.shards}):
        corpus = Corpus(path, (split,))
        for number in range(len(corpus)):
            try:
                corpus.read(number)
            except ShardCorrupt as e:
                problems.append(str(e))
        corpus.close()
    return problems

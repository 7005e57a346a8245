"""The two kinds of task of a preparation, each a pure function that may be repeated.

A session task turns one recording into a spool (a tar, its index and a JSON that is written last);
a shard task merges windows of many spools into one shard. Both overwrite what an earlier, killed
attempt left, with the same bytes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ndt3_dist import storage
from ndt3_dist.errors import BadInput, ShardCorrupt, Withdrawn
from ndt3_dist.lease import check_job
from ndt3_dist.prep.download import fetched
from ndt3_dist.prep.privacy import pseudonym, source_label
from ndt3_dist.prep.reading import preprocessed, read
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import InMemory, RecordingFile
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.on_disk import size_of
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.index import streams_of
from ndt3_dist.shards.manifest import (
    SPLITS,
    VERSION,
    Manifest,
    Shard,
    Stream,
    index_path,
    neural_tokens_per_bin,
    sample_key,
    shard_path,
)
from ndt3_dist.shards.members import described, read_members
from ndt3_dist.shards.npy import parse_npy
from ndt3_dist.shards.verify import same_bytes
from ndt3_dist.shards.write import write_shard


def spool_base(out: str, source: str) -> str:
    """Where the spool of a source goes: a name made from its path, safe for any file system."""
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    return storage.join(out, "spool", name)


def read_spool(out: str, source: str, source_sha256: str, recipe_sha256: str) -> dict | None:
    """The finished spool of a source, or None where it is absent or of another file or recipe."""
    path = spool_base(out, source) + ".json"
    if not storage.exists(path):
        return None
    spool, base = storage.read_json(path), path.removesuffix(".json")
    if spool["recipe_sha256"] != recipe_sha256 or spool["source_sha256"] != source_sha256:
        return None
    if "size" not in spool:  # of an earlier version of this program
        return None
    try:
        whole = storage.size(base + ".tar") == spool["bytes"]
    except FileNotFoundError:
        return None
    return spool if whole and storage.exists(base + ".index.npy") else None


def session_task(
    recipe: Recipe,
    key: bytes,
    source: RecordingFile,
    removed: frozenset = frozenset(),
    there: frozenset = frozenset(),
) -> dict:
    """Turn one recording into a spool, or find the one that an earlier run finished.

    Args:
        key: Of its pseudonyms; b"" without.
        removed: Hashes of recordings that were taken out of the corpus.
        there: Hashes of recordings that it has.
    Returns:
        session (manifest entry), counts by split, base (path of the spool) and reused.
    """
    label = source_label(key, source.name)
    base = spool_base(recipe.out, label)
    with fetched(source) as (path, source_sha256):
        if source_sha256 in removed:
            raise Withdrawn(f"{source.path}: was taken out of this corpus")
        if source_sha256 in there:
            raise BadInput(
                f"{source.path}: the corpus has this recording under another name; was it renamed?"
            )
        found = read_spool(recipe.out, label, source_sha256, recipe.sha256())
        if found:
            return {**found, "base": base, "reused": True}
        if isinstance(source, InMemory):  # a copy: what follows changes it
            own = replace(source.recording, said=list(source.recording.said))
            recording, length = preprocessed(own, recipe), source.bytes
        else:
            recording, length = read(path, recipe), size_of(path)
    recording.subject = pseudonym(key, "subject", recording.subject)
    recording.session = pseudonym(key, "session", recording.session)
    session, samples = cut(recording, recipe, label, source_sha256)
    session = session.model_copy(update={"source_bytes": length})
    storage.check_room(base, sum(members.bytes for _, _, members, _ in samples))
    rows = ((key, members, fields) for _, key, members, fields in samples)
    streams = [stream.name for stream in session.streams]
    written = write_shard(base + ".tar", base + ".index.npy", rows, streams)
    spool = {
        "recipe_sha256": recipe.sha256(),
        "source_sha256": source_sha256,
        "session": session.model_dump(mode="json"),
        "size": [neural_tokens_per_bin(session.arrays), len(session.covariates)],
        "splits": [SPLITS.index(split) for split, *_ in samples],
        "sha256": written["sha256"],
        "index_sha256": written["index_sha256"],
        "bytes": written["bytes"],
        "seconds": session.bins * recipe.bin_size_ms / 1000,
        "active": active_channels(recording),
        "notes": recording.notes(recipe.bin_size_ms / 1000),
    }
    storage.write_json(base + ".json", spool)
    return {**spool, "base": base, "reused": False}


def active_channels(recording: Recording) -> int:
    """Channels with any spike: electrodes without a unit say nothing about rates."""
    if recording.counts is not None:
        return int(recording.counts.any(axis=0).sum())
    return sum(len(times) > 0 for times in recording.spike_times)


def order_key(recipe_sha256: str, key: str) -> bytes:
    """Rank of a window in the keyed-hash order that spreads sessions over shards."""
    return hashlib.blake2b(key.encode(), key=bytes.fromhex(recipe_sha256), digest_size=16).digest()


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write.

    Attributes:
        name: Six digits.
        split: Of all its windows.
        samples: (spool, record in it) in order.
        spools: Spool -> its path, session id, row of the session table, hashes, and neural tokens
            and covariates of a bin; those it needs.
        streams: Of the corpus, in order.
        version: Of the corpus.
    """

    name: str
    split: str
    samples: list[tuple[int, int]]
    spools: dict[int, dict]
    streams: list[str]
    version: int

    def sha256(self) -> str:
        """Identity of what the shard will hold."""
        spools = {n: [s["id"], s["row"], s["sha256"]] for n, s in self.spools.items()}
        what = [self.name, self.split, self.samples, spools, self.streams, self.version]
        return storage.sha256_bytes(storage.canonical_json(what))


def plan_shards(
    spools: list[dict], recipe: Recipe, before: Manifest | None = None, shards: int = 0
) -> list[ShardPlan]:
    """Deal all windows to shards: one split a shard, windows in keyed-hash order, cut by bytes.

    Args:
        spools: What the session tasks returned, in order of session id.
        recipe: For its hash and `shard_mb`.
        before: What the corpus is so far.
        shards: Shards that it has used names of.
    Raises:
        BadInput: A session has a stream that the corpus of before does not have.
    """
    rows, streams, version = 0, list(streams_among(spools)), VERSION
    if before:
        if lost := [name for name in streams if name not in before.members]:
            raise BadInput(
                f"{recipe.out}: what is new has streams that the corpus does not have "
                f"({', '.join(lost)}); prepare it as a corpus of its own"
            )
        rows, streams, version = len(before.sessions), list(before.members), before.version
    windows: dict[str, list] = {split: [] for split in SPLITS}
    identity = recipe.sha256()
    for number, spool in enumerate(spools):
        index = load_spool_index(spool["base"], spool["index_sha256"])
        session, starts = spool["session"]["id"], index["start_bin"].tolist()
        held = np.array([index[stream]["size"] for stream in streams_of(index)], np.int64)
        sizes = (held + 1024 * (held > 0)).sum(axis=0).tolist()
        for record, split in enumerate(spool["splits"]):
            key = order_key(identity, sample_key(session, starts[record]))
            windows[SPLITS[split]].append((key, number, record, sizes[record]))
    cuts: list[tuple[str, list]] = []
    for split, found in windows.items():
        filled = 0.0
        for _, number, record, size in sorted(found):
            if not cuts or cuts[-1][0] != split or filled + size > recipe.shard_mb * 1e6:
                cuts.append((split, []))
                filled = 0.0
            cuts[-1][1].append((number, record))
            filled += size
    plans = []
    for number, (split, samples) in enumerate(cuts, shards):
        used = {}
        for n in sorted({n for n, _ in samples}):
            spool = spools[n]
            used[n] = {key: spool[key] for key in ("base", "sha256", "index_sha256")}
            used[n] |= {"id": spool["session"]["id"], "row": rows + n, "size": spool["size"]}
        plans.append(ShardPlan(f"{number:06d}", split, samples, used, streams, version))
    return plans


def streams_among(spools: list[dict]) -> dict[str, Stream]:
    """The streams of all sessions by name: each the first of its name, in the order met."""
    found: dict[str, Stream] = {}
    for spool in spools:
        for stream in spool["session"]["streams"]:
            if stream["name"] not in found:
                found[stream["name"]] = Stream.model_validate(stream)
    return found


def load_spool_index(base: str, sha256: str) -> np.ndarray:
    """The index of a spool, checked against the hash in its JSON."""
    path = base + ".index.npy"
    data = storage.read_bytes(path)
    if storage.sha256_bytes(data) != sha256:
        raise ShardCorrupt(f"{path}: changed since it was written; remove the spool and run again")
    return parse_npy(data, path)


def shard_task(recipe: Recipe, plan: ShardPlan, job: str = "") -> dict:
    """Merge windows of several spools into one shard, or find it whole; its manifest entry.

    Only the shard's own windows are read, each checked by its crc32.

    Args:
        job: Whose task it is, by its lease; "" = of none.
    """
    done = storage.join(recipe.out, "spool", f"shard-{plan.name}.json")
    if storage.exists(done):
        found = storage.read_json(done)
        if found["plan"] == plan.sha256():
            entry = Shard.model_validate(found["entry"])
            if not same_bytes(recipe.out, entry):
                return found["entry"]
    samples = list(samples_of(plan))
    check_job(recipe.out, job)
    paths = shard_path(recipe.out, plan.name), index_path(recipe.out, plan.name)
    sizes = {s["row"]: s["size"] for s in plan.spools.values()} if plan.version == 1 else None
    written = write_shard(*paths, samples, plan.streams, sizes)
    entry = {"name": plan.name, "split": plan.split, **written}
    storage.write_json(done, {"plan": plan.sha256(), "entry": entry})
    return entry


def samples_of(plan: ShardPlan) -> Iterator[tuple[str, dict, dict]]:
    """Key, members and index fields of each window of a shard, out of the spools."""
    indexes = {n: load_spool_index(s["base"], s["index_sha256"]) for n, s in plan.spools.items()}
    for number, record in plan.samples:
        entry, spool = indexes[number][record], plan.spools[number]
        members = read_members(spool["base"] + ".tar", entry)
        fields = {**described(entry), "session": spool["row"]}
        yield sample_key(spool["id"], int(entry["start_bin"])), members, fields

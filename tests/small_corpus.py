"""Small corpora made without Ray or NWB."""

from pathlib import Path

import numpy as np

from ndt3_dist import storage
from ndt3_dist.data.order import generator
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.stages import order_key
from ndt3_dist.prep.streams import describe
from ndt3_dist.prep.windows import cut
from ndt3_dist.readers.recording import Recording
from ndt3_dist.shards.manifest import (
    Array,
    Manifest,
    Shard,
    index_path,
    neural_tokens_per_bin,
    sample_key,
    shard_path,
)
from ndt3_dist.shards.write import write_shard


def make_recording(number: int, seconds: float, arrays: list[int], dims: int = 2) -> Recording:
    """Random spikes and smooth covariates at 100 Hz."""
    draw = generator("recording", number)
    channels = sum(arrays)
    spikes = [np.sort(draw.uniform(0, seconds, int(10 * seconds))) for _ in range(channels)]
    times = np.arange(0, seconds, 0.01)
    waves = np.sin(times[:, None] * (1 + np.arange(dims)) + number)  # (bins, dims)
    return Recording(
        subject="S",
        session=f"{number:02d}",
        spike_times=spikes,
        arrays=[Array(name=f"a{i}", channels=c) for i, c in enumerate(arrays)],
        start_s=0.0,
        stop_s=seconds,
        covariate_times=times,
        covariates=waves,
        covariate_names=tuple("xyz"[:dims]),
        covariate_unit="cm/s",
    )


def write_corpus(
    out: Path,
    recordings: list[Recording],
    shards: int = 2,
    extends: Manifest | None = None,
    source_sha256: str = "0" * 64,
    version: int = 2,
    **recipe_keys,
) -> Manifest:
    """A corpus as `prep.job` makes it, in one process, with so many shards of each split.

    Those of `extends`, which lies in the same folder, stay as they are and come first.
    `source_sha256` is the first recording's, the others' are made of it; `version` is the corpus's.
    """
    recipe = Recipe(**{"dataset": "t", "out": str(out), **recipe_keys})
    hashes = [source_sha256[n:] + "f" * n for n in range(len(recordings))]
    cuts = [
        cut(r, recipe, f"{r.session}.nwb", sha256)
        for r, sha256 in zip(recordings, hashes, strict=True)
    ]
    old = extends.sessions if extends else []
    sessions = [*old, *(session for session, _ in cuts)]
    streams = describe({t.name: t for session, _ in cuts for t in session.streams})
    names = ("spikes", "covariates") if version == 1 else tuple(streams)
    sizes = None
    if version == 1:
        told = [(neural_tokens_per_bin(s.arrays), len(s.covariates)) for s in sessions]
        sizes = dict(enumerate(told))
    written: list[Shard] = list(extends.shards) if extends else []
    for split in ("train", "val", "calibration", "test"):
        found = [
            (key, members, {**fields, "session": number})
            for number, (_, samples) in enumerate(cuts, len(old))
            for s, key, members, fields in samples
            if s == split
        ]
        found.sort(key=lambda f: order_key(recipe.sha256(), f[0]))
        per_shard = -(-len(found) // shards) or 1
        for start in range(0, len(found), per_shard):
            name = f"{len(written):06d}"
            paths = shard_path(str(out), name), index_path(str(out), name)
            part = write_shard(*paths, found[start : start + per_shard], names, sizes)
            written.append(Shard(name=name, split=split, **part))
    manifest = Manifest.of(
        version=version,
        bin_size_ms=recipe.bin_size_ms,
        window_bins=recipe.window_bins,
        streams=streams,
        recipe=recipe.identity(),
        recipe_sha256=recipe.sha256(),
        sessions=sessions,
        shards=written,
    )
    storage.write_json(out / "manifest.json", manifest.dump())
    assert sample_key(sessions[0].id, 0)
    return manifest

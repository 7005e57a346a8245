"""How much there is to train on: a corpus by its manifest, or hours of assumed recordings."""

from dataclasses import dataclass

import numpy as np

from ndt3_dist.cluster.plan.speed import Window
from ndt3_dist.data.order import count_rows
from ndt3_dist.data.patterns import sources_of
from ndt3_dist.model.objective.identities import count_of, knowing
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.shards.manifest import read_manifest
from ndt3_dist.shards.write import BLOCK
from ndt3_dist.train.pretrain_config import PretrainConfig

CHANNELS, COVARIATES = 192, 2
BIN_MS, WINDOW_BINS = 20.0, 100
SHARD_BYTES = 32_000_000
"""What a recipe makes of it (data_prep)."""


@dataclass(frozen=True)
class CorpusSize:
    """What an epoch holds.

    Attributes:
        source: Where that is known from, or assumed.
        windows, rows: Of an epoch.
        hours: Of the windows.
        window: Tokens of one, the mean.
        fill: Share of a row's slots that are tokens.
        bytes, shards: Of all files that are read.
    """

    source: str
    windows: int
    rows: int
    hours: float
    window: Window
    fill: float
    bytes: int
    shards: int

    @property
    def tokens(self) -> int:
        return round(self.windows * self.window.tokens)


def of_hours(
    config: PretrainConfig, hours: float, channels: int = CHANNELS, covariates: int = COVARIATES
) -> CorpusSize:
    """Of recordings that are all alike, in windows of 2 s, none rejected.

    Raises:
        BadInput: The model holds no such recordings.
    """
    model = config.ndt3
    alone = model.model_copy(update={"context": ()})
    layout = Layout.from_counts([channels], covariates, alone, "assumed")
    tokens, spikes = window_tokens(len(layout.columns), covariates, config)
    tokens += len(model.context)
    windows = max(1, round(hours * 3600e3 / (WINDOW_BINS * BIN_MS)))
    members = WINDOW_BINS * channels, 4 * WINDOW_BINS * covariates
    size = windows * sum(BLOCK * (1 + -(-(128 + m) // BLOCK)) for m in members)
    rows, fill = rows_of(config, np.array([tokens]), np.array([windows]))
    source = (
        f"{hours:,g} hours of {channels} channels and {covariates} covariates, assumed: windows of "
        f"2 s at {BIN_MS:g} ms, none rejected, all in training"
    )
    window = Window(tokens, spikes, WINDOW_BINS * covariates)
    shards = -(-size // SHARD_BYTES)
    return CorpusSize(source, windows, rows, hours, window, fill, size, shards)


def of_corpus(config: PretrainConfig, path: str) -> CorpusSize:
    """Of a corpus, whose manifest is all that is read.

    Raises:
        ManifestMismatch: There is none.
        BadInput: Its sessions are not what `data` names, or the model cannot hold them.
    """
    from ndt3_dist.model.tokenise import NDT3Packing

    manifest = read_manifest(path)
    taken = sources_of(path, [s.id for s in manifest.sessions], config.data) >= 0
    sessions = [s for s, t in zip(manifest.sessions, taken, strict=True) if t]
    sessions = [s for s in sessions if "train" in s.windows and s.windows["train"].kept]
    model = knowing(config.ndt3, sessions)
    NDT3Packing(sessions, model).check([*range(len(sessions))])
    bins, counts, found = manifest.window_bins, [], []
    per = model.channels_per_token
    for session in sessions:
        kept = session.windows["train"].kept * config.data.scale_ratio
        counts.append(max(1, round(min(kept, config.data.max_windows_per_session or kept))))
        patches = sum(-(-a.channels // per) for a in session.arrays)
        returns = any(s.name == "return" for s in session.streams)
        tokens, spikes = window_tokens(patches, len(session.covariates), config, bins, returns)
        found.append((tokens + count_of(session, model.context), spikes))
    number, (tokens, spikes) = np.array(counts), np.array(found or [(0, 0)]).T
    covariates = np.array([bins * len(s.covariates) for s in sessions])
    shards = [s for s in manifest.shards if s.split == "train"]
    rows, fill = rows_of(config, tokens, number)
    windows = int(number.sum())
    means = (float((x * number).sum() / max(windows, 1)) for x in (tokens, spikes, covariates))
    return CorpusSize(
        f"{path}, {len(sessions)} sessions (its manifest; nothing else was read)",
        windows,
        rows,
        windows * bins * manifest.bin_size_ms / 3600e3,
        Window(*means),
        fill,
        sum(s.bytes for s in shards),
        len(shards),
    )


def window_tokens(
    patches: int,
    dims: int,
    config: PretrainConfig,
    bins: int = WINDOW_BINS,
    returns: bool = False,
) -> tuple[int, int]:
    """Tokens of a window without identities, all and neural ones; what constraints a recording has
    is not known."""
    context = config.ndt3.context_tokens * (max(dims, 1) + (bins if returns else 1))
    return bins * (patches + dims) + context, bins * patches


def rows_of(config: PretrainConfig, tokens: np.ndarray, windows: np.ndarray) -> tuple[int, float]:
    """Rows of an epoch, from those that one block of the same mixture makes; how full they are."""
    width, total = config.data.row_tokens, windows.sum()
    part = max(1.0, total / config.data.block_samples)
    lengths = np.unique(tokens)[::-1]
    counts = np.array([windows[tokens == n].sum() for n in lengths]) / part
    counts = np.maximum(1, np.round(counts)).astype(np.int64)
    rows = count_rows(lengths, counts, width)
    return max(1, round(rows * part)), float((lengths * counts).sum() / (rows * width))

"""A stream of a session as one array on this disk, so that every lag is a slice of it.

Windows of a corpus lie shuffled in its shards. They are put in order of time once, window by
window, into a file below `folder`, named by what the corpus is; every experiment on the corpus maps
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Session, Stream

WORDS = "words"
"""Stream that says which word begins in a bin, and when (`ieeg.read_ieeg.word_signal`)."""


@dataclass(frozen=True)
class Series:
    """A stream of one session.

    Attributes:
        session: Its id.
        subject: Its subject.
        path: .npy of (rows, channels of the stream), NaN where nothing was recorded.
        rate_hz: Rows a second.
        columns: Channels that are taken, in order.
        labels: Their names.
        places: Where each is in mm, or None.
        onsets: Word number -> s after the first row; {} where the corpus has no words.
    """

    session: str
    subject: str
    path: Path
    rate_hz: float
    columns: tuple[int, ...]
    labels: tuple[str, ...]
    places: tuple[tuple[float, ...] | None, ...]
    onsets: dict[int, float]

    @property
    def values(self) -> np.ndarray:
        """All channels of the stream, mapped: (rows, channels)."""
        return np.load(self.path, mmap_mode="r")

    @property
    def finite(self) -> np.ndarray:
        """How many rows before each one are not valid, (rows + 1,)."""
        return np.load(self.path.with_suffix(".gaps.npy"))


def whole_series(corpus: Corpus, session: Session, stream: str, folder: Path) -> Series:
    """A stream of a session, whole; found where an earlier call left it.

    Raises:
        BadInput: The session has no such stream, or no window.
    """
    streams = {s.name: s for s in session.streams}
    if stream not in streams:
        known = ", ".join(streams) or "spikes and covariates alone"
        raise BadInput(f"{corpus.path}: {session.id} has no stream {stream!r}; it has {known}")
    described = streams[stream]
    base = folder / corpus.manifest.fingerprint[:16]
    path, words = base / f"{session.id}.{stream}.npy", base / f"{session.id}.{WORDS}.npy"
    if not path.is_file():  # it takes its name last
        write_series(corpus, session, described, streams.get(WORDS), path, words)
    labels = described.labels or [f"{stream}{i}" for i in range(described.dims)]
    places = [tuple(p) if p else None for p in described.places] or [None] * described.dims
    return Series(
        session=session.id,
        subject=session.subject,
        path=path,
        rate_hz=described.rate_hz,
        columns=tuple(range(described.dims)),
        labels=tuple(labels),
        places=tuple(places),
        onsets=read_onsets(words, corpus.manifest.bin_size_ms / 1000),
    )


def write_series(
    corpus: Corpus, session: Session, stream: Stream, words: Stream | None, path: Path, words_path
) -> None:
    """Put the windows of a session in order of time, one at a time in memory."""
    number = corpus.manifest.sessions.index(session)
    mine = np.flatnonzero(corpus.index["session"] == number)
    if not len(mine):
        raise BadInput(f"{corpus.path}: session {session.id} has no window in {corpus.splits}")
    per_bin = round(stream.rate_hz * corpus.manifest.bin_size_ms / 1000)
    shape = session.bins * per_bin, stream.dims
    storage.check_room(path, 4 * shape[0] * shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    known, onsets = np.zeros(shape[0], bool), np.full((session.bins, 2), np.nan, np.float32)
    with storage.atomic_file(path) as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        file.flush()
        begins = file.tell()
        file.truncate(begins + 4 * shape[0] * shape[1])
        values = np.memmap(file.name, np.float32, "r+", begins, shape)
        for i in log.progress(mine.tolist(), f"{session.id} in order of time, windows"):
            sample, start = corpus.read(i), int(corpus.index["start_bin"][i])
            rows = sample[stream.name]
            at = slice(start * per_bin, start * per_bin + len(rows))
            values[at] = rows
            known[at] = np.isfinite(rows).all(axis=1)
            if words is not None:
                onsets[start : start + len(sample[WORDS])] = sample[WORDS]
        values.flush()
        file.seek(0, 2)
        with storage.atomic_file(words_path) as other:
            np.save(other, onsets)
        with storage.atomic_file(path.with_suffix(".gaps.npy")) as other:
            np.save(other, np.concatenate([[0], np.cumsum(~known)]))


def read_onsets(path: Path, bin_s: float) -> dict[int, float]:
    """Word number -> onset in s."""
    table = np.load(path)
    at = np.flatnonzero(np.isfinite(table[:, 0]))
    onsets = at * bin_s + table[at, 1].astype(np.float64)
    return dict(zip(table[at, 0].astype(int).tolist(), onsets.tolist(), strict=True))


def first_rows(starts: np.ndarray, lag_ms: float, width_s: float, rate_hz: float) -> np.ndarray:
    """First row of the window of each word at a lag, (words,): it is centred at onset + lag."""
    at = (np.asarray(starts) + lag_ms / 1000 - width_s / 2) * rate_hz
    return np.floor(at + 0.5 + 1e-6).astype(np.int64)


def has_window(
    series: Sequence[Series], starts: np.ndarray, lags: Sequence[int], width_s: float
) -> np.ndarray:
    """Which words have all their windows inside of all recordings and of no gap, (words,)."""
    kept = np.ones(len(starts), bool)
    for one in series:
        gaps, rows = one.finite, rows_of(width_s, one.rate_hz)
        for lag in lags:
            first = first_rows(starts, lag, width_s, one.rate_hz)
            inside = (first >= 0) & (first + rows < len(gaps))
            at = np.where(inside, first, 0)
            kept &= inside & (gaps[np.minimum(at + rows, len(gaps) - 1)] == gaps[at])
    return kept


def rows_of(width_s: float, rate_hz: float) -> int:
    """Rows of a window."""
    return round(width_s * rate_hz)


def windows(
    series: Sequence[Series], starts: np.ndarray, lag_ms: float, width_s: float
) -> np.ndarray:
    """Windows of some words, the channels of all sessions side by side: (words, channels, rows)."""
    number = rows_of(width_s, series[0].rate_hz)
    found = np.empty((len(starts), sum(len(s.columns) for s in series), number), np.float32)
    begin = 0
    for one in series:
        values, columns = one.values, np.array(one.columns)
        whole = len(columns) == values.shape[1]
        first = first_rows(starts, lag_ms, width_s, one.rate_hz)
        for row, at in enumerate(first.tolist()):
            window = values[at : at + number]
            found[row, begin : begin + len(columns)] = (window if whole else window[:, columns]).T
        begin += len(columns)
    return found

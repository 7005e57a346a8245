"""A split of one session as it was recorded: windows put back together in time.

Fine-tuning draws windows at any bin of it, decoders slide over it. Rejected windows leave gaps,
and nothing ever reaches across one.
"""

import difflib
from dataclasses import dataclass

import numpy as np

from ndt3_dist import log
from ndt3_dist.data.order import generator
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus, Sample
from ndt3_dist.shards.manifest import Session


@dataclass(frozen=True)
class Piece:
    """Consecutive bins without a gap.

    Attributes:
        start_bin: Of the session.
        spikes: (bins, channels) uint8.
        covariates: In units of the session's scale, NaN where not valid, (bins, dims) float32.
    """

    start_bin: int
    spikes: np.ndarray
    covariates: np.ndarray

    def __len__(self) -> int:
        return len(self.spikes)

    def window(self, start: int, stop: int) -> Sample:
        return {"spikes": self.spikes[start:stop], "covariates": self.covariates[start:stop]}


def sessions_with(corpus: Corpus) -> list[str]:
    """Ids of the sessions that have windows in the corpus's opened splits."""
    return [
        s.id
        for s in corpus.manifest.sessions
        if any(s.windows[p].kept for p in corpus.splits if p in s.windows)
    ]


def read_pieces(corpus: Corpus, session: str) -> tuple[Session, list[Piece]]:
    """All pieces of one session in the corpus's opened splits, in order of time.

    Raises:
        BadInput: The session is not there, or has no window in these splits.
    """
    entry = corpus.manifest.named(session)
    number = corpus.manifest.sessions.index(entry)
    mine = np.flatnonzero(corpus.index["session"] == number)
    if not len(mine):
        raise BadInput(
            f"{corpus.path}: session {session} has no window in this split; "
            f"these have: {', '.join(sessions_with(corpus))}"
        )
    mine = mine[np.argsort(corpus.index["start_bin"][mine])]
    found: list[list[tuple[int, Sample]]] = []
    expected = -1
    for i in log.progress(mine.tolist(), f"reading {session}, windows"):
        start = int(corpus.index["start_bin"][i])
        if start != expected:
            found.append([])
        found[-1].append((start, corpus.read(i)))
        expected = start + int(corpus.index["bins"][i])
    pieces = [
        Piece(
            windows[0][0],
            np.concatenate([s["spikes"] for _, s in windows]),
            np.concatenate([s["covariates"] for _, s in windows]),
        )
        for windows in found
    ]
    return entry, pieces


def choose_covariates(
    session: Session, pieces: list[Piece], names: list[str]
) -> tuple[Session, list[Piece]]:
    """A session and its pieces with some of the covariates, in the order of `names`.

    Raises:
        BadInput: The session has no such covariate (names the nearest), or one is named twice.
    """
    known = [c.name for c in session.covariates]
    if names == known:
        return session, pieces
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise BadInput(f"session {session.id}: no covariate {name!r} ({hint})")
    if len(set(names)) < len(names):
        raise BadInput(f"session {session.id}: a covariate is named twice in {', '.join(names)}")
    columns = [known.index(name) for name in names]
    chosen = [session.covariates[i] for i in columns]
    return session.model_copy(update={"covariates": chosen}), [
        Piece(r.start_bin, r.spikes, r.covariates[:, columns]) for r in pieces
    ]


def cut_out(pieces: list[Piece], start: int, stop: int) -> list[Piece]:
    """Bins `start` to `stop` of some pieces, counted as if there were no gaps."""
    found = []
    for piece in pieces:
        part = slice(max(start, 0), max(stop, 0))
        if len(piece.spikes[part]):
            begins = piece.start_bin + part.start
            found.append(Piece(begins, piece.spikes[part], piece.covariates[part]))
        start, stop = start - len(piece), stop - len(piece)
    return found


def stretch(pieces: list[Piece], bins: int, seed: int) -> list[Piece]:
    """So many bins in one stretch, whose place the seed draws.

    Of one seed a shorter stretch lies within each longer one: as many of the bins that are left
    out, but for rounding, are before it.
    """
    total = sum(map(len, pieces))
    start = int(generator("stretch", seed).random() * (total - bins))
    return cut_out(pieces, start, start + bins)


def split_last(pieces: list[Piece], fraction: float) -> tuple[list[Piece], list[Piece]]:
    """The first part of some pieces, and the last `fraction` of their bins."""
    total = sum(map(len, pieces))
    cut = round(total * (1 - fraction))
    return cut_out(pieces, 0, cut), cut_out(pieces, cut, total)

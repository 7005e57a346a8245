"""What a decoder may be fitted on: pieces to draw windows from, and the last part, held back."""

from dataclasses import dataclass, replace

import numpy as np

from ndt3_dist.data.continuous import (
    Piece,
    choose_covariates,
    read_pieces,
    sessions_with,
    split_last,
    stretch,
)
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Covariate, Manifest, Session
from ndt3_dist.tune.tune_config import TuneConfig, TuneDataConfig
from ndt3_dist.tune.unlabelled import without_labels


@dataclass(frozen=True)
class FitData:
    """What a decoder may be fitted on.

    Attributes:
        manifest: Of the corpus.
        session: Its entry, with the covariates to fit.
        first: Pieces to draw windows from.
        last: Pieces held back to choose the best step; none in a refit.
        undivided: All pieces of it that hold a window.
        pieces: All of it: the split, or the share of it that is taken.
        window: Bins of a window.
    """

    manifest: Manifest
    session: Session
    first: list[Piece]
    last: list[Piece]
    undivided: list[Piece]
    pieces: list[Piece]
    window: int

    def whole(self) -> "FitData":
        """The same with nothing held back."""
        return replace(self, first=self.undivided, last=[])


def read_fit_data(
    config: TuneConfig, session_id: str = "", decoded: list[Covariate] | None = None
) -> FitData:
    """The fit split of a session, or a share of it.

    Args:
        session_id: Empty = the config's, or the only one that has the split.
        decoded: Covariates that it is decoded to; its own are then not looked at.
    Raises:
        BadInput: It is ambiguous or too short.
    """
    read = read_split(config.data, session_id, decoded)
    return divided(config.data, config.run.seed, *read, has_labels=decoded is None)


def read_split(
    data: TuneDataConfig, session_id: str = "", decoded: list[Covariate] | None = None
) -> tuple[Manifest, Session, list[Piece]]:
    """All of the fit split, with the covariates to fit; arguments as in `read_fit_data`.

    Raises:
        BadInput: It is ambiguous.
    """
    corpus = Corpus(data.corpus, (data.fit,))
    known, chosen = sessions_with(corpus), session_id or data.session
    if not chosen and len(known) > 1:
        raise BadInput(
            f"{data.corpus}: several sessions have split {data.fit}; "
            f"choose one with data.session=, or some with data.sessions=, of {', '.join(known)}"
        )
    session, pieces = read_pieces(corpus, chosen or known[0])
    if decoded is not None:
        session, pieces = without_labels(session, pieces, decoded)
    if not session.covariates and decoded is None:
        raise BadInput(f"session {session.id} has no covariates to fit a decoder to")
    if data.covariates:
        session, pieces = choose_covariates(session, pieces, data.covariates)
    return corpus.manifest, session, pieces


def divided(
    data: TuneDataConfig,
    seed: int,
    manifest: Manifest,
    session: Session,
    pieces: list[Piece],
    has_labels: bool = True,
) -> FitData:
    """What `read_split` gave, or a share of it. Raises BadInput where it is too short."""
    window = manifest.window_bins
    split = f"split {data.fit}"
    if data.share < 1 or data.minutes:
        bins = bins_of(data, session.id, pieces, manifest.bin_size_ms)
        pieces = stretch(pieces, bins, seed)
        split = f"{bins} bins of {split}"
    first, last = split_last(pieces, data.val_fraction)
    first = [r for r in first if len(r) >= window]
    if not first or not last:
        raise BadInput(
            f"session {session.id}: {split}: too short to hold back {data.val_fraction:.0%} "
            f"of it and still fill windows of {window} bins"
        )
    for part, found in (("fitted", first), ("held back", last)):
        if has_labels and not any(np.isfinite(r.covariates).any() for r in found):
            raise BadInput(
                f"session {session.id}: no valid covariate in the {part} part of {split}; choose "
                "another data.val_fraction or session"
            )
    undivided = [r for r in pieces if len(r) >= window]
    return FitData(manifest, session, first, last, undivided, pieces, window)


def bins_of(data: TuneDataConfig, session: str, pieces: list[Piece], bin_size_ms: float) -> int:
    """Bins of a split that may be fitted.

    Raises:
        BadInput: The split has fewer.
    """
    total = sum(map(len, pieces))
    if data.minutes is None:
        return round(total * data.share)
    bins = round(data.minutes * 60_000 / bin_size_ms)
    if bins > total:
        raise BadInput(
            f"session {session}: split {data.fit} has {total * bin_size_ms / 60_000:.3g} minutes; "
            f"data.minutes is {data.minutes:g}, expected no more"
        )
    return bins

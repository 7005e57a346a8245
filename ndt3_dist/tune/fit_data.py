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
from ndt3_dist.shards.manifest import Manifest, Session
from ndt3_dist.tune.tune_config import TuneConfig, TuneDataConfig


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


def read_fit_data(config: TuneConfig) -> FitData:
    """The fit split of the config's session, or a share of it.

    Raises:
        BadInput: It is ambiguous or too short.
    """
    return divided(config.data, config.run.seed, *read_split(config.data))


def read_split(data: TuneDataConfig) -> tuple[Manifest, Session, list[Piece]]:
    """All of the fit split, with the covariates to fit. Raises BadInput where it is ambiguous."""
    corpus = Corpus(data.corpus, (data.fit,))
    known = sessions_with(corpus)
    if not data.session and len(known) > 1:
        raise BadInput(
            f"{data.corpus}: several sessions have split {data.fit}; "
            f"choose one with data.session=, of {', '.join(known)}"
        )
    session, pieces = read_pieces(corpus, data.session or known[0])
    if not session.covariates:
        raise BadInput(f"session {session.id} has no covariates to fit a decoder to")
    if data.covariates:
        session, pieces = choose_covariates(session, pieces, data.covariates)
    return corpus.manifest, session, pieces


def divided(
    data: TuneDataConfig, seed: int, manifest: Manifest, session: Session, pieces: list[Piece]
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
        if not any(np.isfinite(r.covariates).any() for r in found):
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

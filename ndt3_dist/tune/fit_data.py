"""What a decoder may be fitted on: pieces to draw windows from, and the last part, held back."""

from dataclasses import dataclass, replace

import numpy as np

from ndt3_dist.data.continuous import (
    Piece,
    choose_covariates,
    read_pieces,
    sessions_with,
    split_last,
)
from ndt3_dist.errors import BadInput
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Manifest, Session
from ndt3_dist.tune.tune_config import TuneConfig


@dataclass(frozen=True)
class FitData:
    """What a decoder may be fitted on.

    Attributes:
        manifest: Of the corpus.
        session: Its entry, with the covariates to fit.
        first: Pieces to draw windows from.
        last: Pieces held back to choose the best step; none in a refit.
        undivided: All pieces of the split that hold a window.
        pieces: All of the split.
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
    """The fit split of the config's session; BadInput where it is ambiguous or too short."""
    corpus = Corpus(config.data.corpus, (config.data.fit,))
    known = sessions_with(corpus)
    if not config.data.session and len(known) > 1:
        raise BadInput(
            f"{config.data.corpus}: several sessions have split {config.data.fit}; "
            f"choose one with data.session=, of {', '.join(known)}"
        )
    session, pieces = read_pieces(corpus, config.data.session or known[0])
    is_labelled = config.train.covariate_weight != 0
    if is_labelled and not session.covariates:
        raise BadInput(
            f"session {session.id} has no covariates to fit a decoder to; train.covariate_weight=0 "
            "fits to its counts alone"
        )
    if config.data.covariates:
        session, pieces = choose_covariates(session, pieces, config.data.covariates)
    window = corpus.manifest.window_bins
    first, last = split_last(pieces, config.data.val_fraction)
    first = [r for r in first if len(r) >= window]
    if not first or not last:
        raise BadInput(
            f"session {session.id}: split {config.data.fit} is too short to hold back "
            f"{config.data.val_fraction:.0%} of it and still fill windows of {window} bins"
        )
    for part, found in (("fitted", first), ("held back", last)):
        if is_labelled and not any(np.isfinite(r.covariates).any() for r in found):
            raise BadInput(
                f"session {session.id}: no valid covariate in the {part} part of split "
                f"{config.data.fit}; choose another data.val_fraction or session"
            )
    undivided = [r for r in pieces if len(r) >= window]
    return FitData(corpus.manifest, session, first, last, undivided, pieces, window)

"""A session whose covariates nobody recorded, or that are not to be looked at: it is decoded to
those of an export, in the export's units."""

import numpy as np
from pydantic import ValidationError

from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput, CheckpointCorrupt
from ndt3_dist.model.load import read_export_config, read_normalisation
from ndt3_dist.model.readout import told_of
from ndt3_dist.shards.manifest import Covariate, Session


def covariates_of(export: str, session: str, decodes: str = "") -> list[Covariate]:
    """Covariates and scales that an export decodes a session to.

    Args:
        session: Id of the session.
        decodes: Session of the export whose they are; empty = the same one, or the only one.
    Raises:
        BadInput: There is no such session, several to choose from, or it has another readout.
        CheckpointCorrupt: normalisation.json is damaged.
    """
    sessions = read_normalisation(export).get("sessions", {})
    only = next(iter(sessions)) if len(sessions) == 1 else ""
    chosen = decodes or (session if session in sessions else only)
    if not sessions:
        raise BadInput(
            f"{export}: decodes no session, so there is nothing to adapt; fit it to one with "
            "covariates first"
        )
    if chosen not in sessions:
        found = f"no session {chosen!r}" if chosen else f"{len(sessions)} sessions"
        raise BadInput(
            f"{export}: {found}; choose one with data.decodes=, of {', '.join(sessions)}"
        )
    told = told_of(read_export_config(export), chosen)
    if told and "hidden" in told["shapes"]:
        raise BadInput(
            f"{export}: reads the covariates of {chosen} by filters that were fitted to it in "
            "closed form, which an adapted model has not; adapt one that was fitted by steps"
        )
    try:
        found = [Covariate.model_validate(c) for c in sessions[chosen]["covariates"]]
    except (KeyError, TypeError, ValidationError) as e:
        raise CheckpointCorrupt(f"{export}/normalisation.json: not as expected ({e})") from e
    if not found:
        raise BadInput(f"{export}: session {chosen} has no covariates to decode")
    return found


def without_labels(
    session: Session, pieces: list[Piece], decoded: list[Covariate]
) -> tuple[Session, list[Piece]]:
    """A session with other covariates, of which no value is known."""
    unknown = [np.full((len(p), len(decoded)), np.nan, np.float32) for p in pieces]
    return session.model_copy(update={"covariates": decoded}), [
        Piece(p.start_bin, p.spikes, u) for p, u in zip(pieces, unknown, strict=True)
    ]

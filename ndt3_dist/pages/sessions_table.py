"""The sessions of a corpus as a table, under the names of the streams that it has."""

import numpy as np

from ndt3_dist.pages.page import as_table
from ndt3_dist.pages.words import NONE, Name, count, duration, number, words
from ndt3_dist.shards.manifest import SPLITS, Manifest, Session

ROWS = 500
"""Sessions of a table, at most."""


def dims_of(session: Session) -> dict[str, int]:
    """Values of a row of each stream; corpora of version 1 do not say them of theirs."""
    if session.streams:
        return {stream.name: stream.dims for stream in session.streams}
    return {"spikes": session.channels, "covariates": len(session.covariates)}


def rejected_of(session: Session) -> dict[str, int]:
    """Windows that were left out, by reason."""
    found: dict[str, int] = {}
    for windows in session.windows.values():
        for reason, number_ in windows.rejected.items():
            found[reason] = found.get(reason, 0) + number_
    return found


def seconds_of(session: Session, manifest: Manifest) -> float:
    return session.bins * manifest.bin_size_ms / 1000


def session_rows(manifest: Manifest, notes: dict[str, str] | None = None) -> list[dict]:
    """One row a session: its time, streams, covariates, windows by split, what was rejected, rate.

    Args:
        notes: To show of some sessions, by id.
    """
    sessions = [s for s in manifest.sessions if not s.is_removed]
    streams = [n for n in manifest.members if any(dims_of(s).get(n) for s in sessions)]
    splits = [n for n in SPLITS if any(s.windows[n].kept for s in sessions if n in s.windows)]
    rows = []
    for session in sessions:
        row: dict[str, object] = {"session": Name(session.id)}
        if notes:
            row["look at"] = notes.get(session.id, NONE)
        row["time"] = duration(seconds_of(session, manifest))
        for stream in streams:
            row[Name(stream)] = count(dims_of(session).get(stream))
        for split in splits:
            kept = session.windows[split].kept if split in session.windows else 0
            row[f"{words(split)} windows"] = count(kept)
        rejected = sorted(rejected_of(session).items())
        row["rejected"] = ", ".join(f"{count(n)} {words(why)}" for why, n in rejected) or NONE
        if any(s.arrays for s in sessions):
            time = seconds_of(session, manifest) * session.channels
            row["Hz per channel"] = number(session.spikes / time if time else None)
        if any(s.covariates for s in sessions):
            row["names of covariates"] = Name(", ".join(c.name for c in session.covariates) or NONE)
        rows.append(row)
    return rows


def sessions_table(manifest: Manifest, notes: dict[str, str] | None = None) -> str:
    """`session_rows` as HTML: of at most `ROWS` sessions, those with notes and the first others."""
    told = "Under the name of a stream: its channels or dimensions."
    rows = session_rows(manifest, notes)
    if len(rows) > ROWS:
        told += f" {count(ROWS)} of {count(len(rows))} sessions; manifest.json has all."
        noted = [row["session"] in (notes or {}) for row in rows]
        kept = np.argsort(np.logical_not(noted), kind="stable")[:ROWS]
        rows = [rows[i] for i in sorted(kept.tolist())]
    return f'<p class="note">{told}</p>{as_table(rows)}'

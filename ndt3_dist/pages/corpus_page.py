"""An HTML report of a corpus: rates, odd channels, covariates, what was rejected, double sessions.

At most `SEEN` windows of each session are read, evenly over it.
"""

import hashlib
import html
from dataclasses import dataclass, field

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.pages.page import STYLE, as_image, as_table, new_figure
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Manifest, Session, read_manifest
from ndt3_dist.shards.summary import corpus_rows

SEEN = 40
"""Windows of a session that are looked at."""
PICTURES = 24
"""Sessions that get a picture of their own."""
SAME = 0.5
"""Share of windows with equal counts from which two sessions are called one."""


@dataclass
class Look:
    """What was seen of a session.

    Attributes:
        rates: Of each channel in Hz, (channels,).
        silent: Channels without a spike.
        double: Channels that equal an earlier one in every bin, with a spike at least.
        trace: Covariates of its first windows, (bins, dims).
        prints: Hashes of the counts of its windows.
        missing: Share of covariate values that are not valid.
        most: Highest count of a bin.
    """

    rates: np.ndarray
    silent: list[int]
    double: list[int]
    trace: np.ndarray
    prints: set[str] = field(default_factory=set)
    missing: float = 0.0
    most: int = 0

    def flags(self) -> list[str]:
        """What a person should look at."""
        found = []
        if len(self.silent) > len(self.rates) / 4:
            found.append(f"{len(self.silent)} of {len(self.rates)} channels silent")
        if self.double:
            found.append(f"{len(self.double)} channels equal another")
        if self.missing > 0.5:
            found.append(f"{self.missing:.0%} of covariate values missing")
        if self.most >= 200:
            found.append(f"up to {self.most} spikes in a bin")
        return found


def look(corpora: list[Corpus], number: int, session: Session, bin_s: float) -> Look | None:
    """Read windows of a session; None where it has none."""
    spikes, covariates, prints = [], [], set()
    for corpus in corpora:
        own = np.flatnonzero(corpus.index["session"] == number)
        chosen = own[np.argsort(corpus.index["start_bin"][own], kind="stable")]
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(SEEN, len(chosen))).astype(int)]
        for sample in map(corpus.read, chosen.tolist()):
            spikes.append(sample["spikes"])
            covariates.append(sample["covariates"])
            prints.add(hashlib.sha256(sample["spikes"].tobytes()).hexdigest())
    if not spikes:
        return None
    counts, values = np.concatenate(spikes), np.concatenate(covariates)
    silent = np.flatnonzero(~counts.any(axis=0))
    columns = {}
    double = [
        c
        for c in np.flatnonzero(counts.any(axis=0)).tolist()
        if columns.setdefault(counts[:, c].tobytes(), c) != c
    ]
    return Look(
        counts.mean(axis=0) / bin_s,
        silent.tolist(),
        double,
        np.concatenate(covariates[:5]),
        prints,
        float(np.isnan(values).mean()) if values.size else 0.0,
        int(counts.max()),
    )


def doubles(looks: dict[str, Look]) -> list[tuple[str, str, float]]:
    """Pairs of sessions that share windows, with the share."""
    names, found = sorted(looks), []
    owner: dict[str, list[str]] = {}
    for name in names:
        for print_ in looks[name].prints:
            owner.setdefault(print_, []).append(name)
    shared: dict[tuple[str, str], int] = {}
    for holders in owner.values():
        for i, a in enumerate(holders):
            for b in holders[i + 1 :]:
                shared[a, b] = shared.get((a, b), 0) + 1
    for (a, b), count in sorted(shared.items()):
        share = count / min(len(looks[a].prints), len(looks[b].prints))
        if share >= SAME:
            found.append((a, b, share))
    return found


def session_figure(seen: Look, session: Session, bin_s: float):
    """Rates of all channels, and a stretch of the covariates."""
    figure, (rates, trace) = new_figure(2, 1.5)
    rates.bar(np.arange(len(seen.rates)), seen.rates, width=1, color="#9db4d3")
    rates.plot(seen.silent, np.zeros(len(seen.silent)), "v", color="#b3312c", markersize=3)
    rates.set_ylabel("Hz")
    rates.set_xlabel("channel")
    time = np.arange(len(seen.trace)) * bin_s
    for d, covariate in enumerate(session.covariates):
        trace.plot(time, seen.trace[:, d], linewidth=0.9, label=covariate.name)
    if session.covariates:
        trace.legend(ncols=8, fontsize=7, frameon=False)
    trace.set_xlabel("s")
    return figure


def rejected_figure(manifest: Manifest):
    """Windows kept and rejected by reason, all sessions together; None where none is rejected."""
    sums: dict[str, int] = {}
    for session in manifest.sessions:
        for split, windows in session.windows.items():
            sums[f"kept, {split}"] = sums.get(f"kept, {split}", 0) + windows.kept
            for reason, count in windows.rejected.items():
                sums[reason] = sums.get(reason, 0) + count
    figure, (axis,) = new_figure(1, 1.8)
    axis.barh(list(sums), list(sums.values()), color="#1f4e8c")
    axis.set_xlabel("windows")
    return figure


def write_page(path: str) -> str:
    """Write CORPUS/report.html; its path.

    Raises:
        ManifestMismatch, ShardCorrupt: No corpus, or a damaged window.
    """
    manifest = read_manifest(path)
    bin_s = manifest.bin_size_ms / 1000
    corpora = [Corpus(path, (split,)) for split in sorted({s.split for s in manifest.shards})]
    looks: dict[str, Look] = {}
    rows = {row["session"]: row for row in corpus_rows(manifest)}
    for number, session in log.progress(list(enumerate(manifest.sessions)), "sessions"):
        found = look(corpora, number, session, bin_s) if not session.is_removed else None
        if found:
            looks[session.id] = found
            rows[session.id] |= {"look at": "; ".join(found.flags()) or "-"}
    twice = [{"session": a, "and": b, "windows in both": f"{s:.0%}"} for a, b, s in doubles(looks)]
    failed = [f.model_dump() for f in manifest.failed]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Corpus</title>",
        f"<style>{STYLE}</style><h1>Corpus {manifest.fingerprint[:12]}</h1>",
        as_table([{"look at": "-", **row} for row in rows.values()]),
        "<h2>Windows</h2>",
        as_image(rejected_figure(manifest), "windows kept and rejected by reason"),
    ]
    for title, table in (("Sessions that are there twice", twice), ("Left out", failed)):
        if table:
            parts += [f"<h2>{title}</h2>", as_table(table)]
    for session in [s for s in manifest.sessions if s.id in looks][:PICTURES]:
        parts.append(f"<h2>{html.escape(session.id)}</h2>")
        parts.append(as_image(session_figure(looks[session.id], session, bin_s), "rates, traces"))
    out = storage.join(path, "report.html")
    storage.write_bytes(out, "\n".join([*parts, "</html>"]).encode())
    for corpus in corpora:
        corpus.close()
    return out

"""An HTML page of a corpus: totals, windows with their spikes, sessions, what is odd, what was
rejected, rates and traces.

At most `inspection.SEEN` windows of each session are read of each split, evenly over it, and of
`LOOKED` sessions at most; all other numbers are those of the manifest and the index.
"""

from collections.abc import Iterable

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.pages.chart import Series, as_chart, as_charts
from ndt3_dist.pages.inspection import Inspection, doubles, inspect_session
from ndt3_dist.pages.page import as_bars, as_facts, as_html, as_page, as_table, section, sentence
from ndt3_dist.pages.sessions_table import rejected_of, seconds_of, sessions_table
from ndt3_dist.pages.window_charts import OF_X, raster_chart, signal_charts
from ndt3_dist.pages.words import (
    Name,
    Number,
    count,
    duration,
    number,
    percent,
    plural,
    size,
    words,
)
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.index import CHANNELS_PER_TOKEN
from ndt3_dist.shards.manifest import (
    SPLITS,
    Manifest,
    Session,
    neural_tokens_per_bin,
    read_manifest,
)

LOOKED = 300
"""Sessions whose windows are read, unless more are asked for."""
PICTURES = 24
"""Sessions that get charts of their own."""


def windows_of(manifest: Manifest) -> tuple[dict[str, int], dict[str, int]]:
    """Windows kept by split and rejected by reason, all sessions together."""
    kept: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for session in manifest.sessions:
        for split, windows in session.windows.items():
            kept[split] = kept.get(split, 0) + windows.kept
        for reason, lost in rejected_of(session).items():
            rejected[reason] = rejected.get(reason, 0) + lost
    return {name: kept[name] for name in SPLITS if name in kept}, rejected


def headline(manifest: Manifest, odd: int, unseen: int = 0) -> str:
    """The sentence that says what a corpus is, as HTML.

    Args:
        manifest: Of it.
        odd: Sessions that a person should look at.
        unseen: Sessions that nobody knows it of.
    """
    sessions = [s for s in manifest.sessions if not s.is_removed]
    subjects = count(len({(s.dataset, s.subject) for s in sessions}))
    of_subjects = f"{plural(count(len(sessions)), 'session')} of {plural(subjects, 'subject')}"
    time = duration(sum(seconds_of(s, manifest) for s in sessions))
    told = f"{count(odd)} to look at" if odd else "nothing odd"
    if unseen:
        told += f" {'of' if odd else 'in'} {count(len(sessions) - unseen)} that were read"
    return sentence(of_subjects, ", ", time, f": {told}")


def facts(manifest: Manifest, corpora: list[Corpus]) -> dict[str, object]:
    """Numbers of the whole corpus, from its manifest and index."""
    kept, rejected = windows_of(manifest)
    lost = sum(rejected.values())
    window_s = manifest.window_bins * manifest.bin_size_ms / 1000
    sessions = [s for s in manifest.sessions if not s.is_removed]
    found: dict[str, object] = {
        "sessions": len(sessions),
        "subjects": len({(s.dataset, s.subject) for s in sessions}),
        "hours": number(sum(seconds_of(s, manifest) for s in sessions) / 3600),
    }
    if any(s.arrays for s in sessions):
        found["spikes"] = sum(s.spikes for s in sessions)
        per_bin = [neural_tokens_per_bin(s.arrays) + len(s.covariates) for s in manifest.sessions]
        tokens = sum(
            int(np.array(per_bin)[c.index["session"]] @ c.index["bins"].astype(int))
            for c in corpora
        )
        found[f"tokens ({CHANNELS_PER_TOKEN} channels each)"] = tokens
    return {
        **found,
        "bin": Number(f"{manifest.bin_size_ms:g} ms"),
        "window": Number(f"{window_s:g} s"),
        "windows": sum(kept.values()),
        "rejected": percent(lost / max(lost + sum(kept.values()), 1)),
        "left out": len(manifest.failed),
        "size": size(sum(s.bytes for s in manifest.shards)),
        "shards": len(manifest.shards),
        "datasets": Name(some(s.dataset for s in sessions)),
        "licence": Name(some(s.licence for s in sessions)),
        "streams": Name(", ".join(manifest.members)),
        "fingerprint": Name(manifest.fingerprint[:12]),
    }


def some(names: Iterable[str]) -> str:
    """The names that there are, each once and at most three of them."""
    known = sorted({name or "not said" for name in names})
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    return ", ".join(known[:3]) + more


def windows_bars(manifest: Manifest) -> str:
    """Windows kept and rejected, as bars."""
    kept, rejected = windows_of(manifest)
    rows = [(f"Kept for {words(name)}", float(n), count(n), False) for name, n in kept.items()]
    rows += [(f"Rejected: {words(why)}", float(n), count(n), True) for why, n in rejected.items()]
    return as_bars(rows)


def session_charts(session: Session, seen: Inspection) -> str:
    """Rates of all channels, and a stretch of the signals."""
    charts = []
    for name, counts in seen.counts.items():
        channels = np.arange(len(counts.rates), dtype=float)
        lines = [Series(channels, counts.rates, "", 1, "area")]
        if counts.silent:
            silent = np.array(counts.silent, float)
            above = np.full(len(silent), 0.02 * counts.rates.max())  # zero, and still to be seen
            lines.append(Series(silent, above, "silent", 2, "dot"))
        charts.append(as_chart(Name(name), lines, "channel", unit="mean rate, Hz"))
    for name, signals in seen.signals.items():
        of_x = "time in windows side by side, s"
        charts += signal_charts(session, name, signals.trace, signals.rate_hz, of_x)
    heading = f"<h3>{as_html(Name(session.id))}</h3>"
    flags = "; ".join(seen.flags())
    return heading + (f'<p class="warn">{as_html(flags)}</p>' if flags else "") + as_charts(*charts)


def window_section(sessions: list[Session], seen: dict[str, Inspection], bin_s: float) -> str:
    """One window with spikes of the first session, and one of a session of another subject."""
    counted, parts = [s for s in sessions if seen[s.id].counts], []
    owners = [(s.dataset, s.subject) for s in counted]
    others = [s for s, owner in zip(counted, owners, strict=True) if owner != owners[0]]
    for session in [*counted[:1], *(others or counted[1:])[:1]]:
        window, charts = seen[session.id].middle, []
        rates = {s.name: s.rate_hz for s in session.streams}
        for name in seen[session.id].counts:
            if name in window:
                charts.append(raster_chart(name, window[name], rates.get(name, 1 / bin_s)))
        for name in seen[session.id].signals:
            if name in window:
                signal = window[name], rates.get(name, 1 / bin_s)
                charts += signal_charts(session, name, *signal, OF_X, wide=True)
        start = Number(f"{seen[session.id].start_bin * bin_s:g} s")
        told = sentence("From ", start, " into ", Name(session.id), " on")
        parts.append(f"<h3>{told}</h3>{as_charts(*charts)}")
    return section("Windows as they are", *parts)


def looked_into(manifest: Manifest, most: int) -> list[tuple[int, Session]]:
    """At most so many sessions with their rows, evenly over the table."""
    there = [(row, s) for row, s in enumerate(manifest.sessions) if not s.is_removed]
    chosen = np.linspace(0, len(there) - 1, min(most, len(there))).astype(int)
    return [there[i] for i in chosen.tolist()]


def write_page(path: str, most: int = LOOKED) -> str:
    """Write CORPUS/report.html; its path.

    Args:
        most: Sessions whose windows are read.
    Raises:
        ManifestMismatch, ShardCorrupt: No corpus, or a damaged window.
    """
    manifest = read_manifest(path)
    bin_s = manifest.bin_size_ms / 1000
    corpora = [Corpus(path, (split,)) for split in sorted({s.split for s in manifest.shards})]
    seen: dict[str, Inspection] = {}
    looked = looked_into(manifest, most)
    for row, session in log.progress(looked, "sessions"):
        found = inspect_session(corpora, row, session, bin_s)
        if found:
            seen[session.id] = found
    numbers = as_facts(facts(manifest, corpora))
    for corpus in corpora:
        corpus.close()
    notes = {name: "; ".join(found.flags()) for name, found in seen.items() if found.flags()}
    pairs = doubles(seen)
    twice = [
        {"session": Name(a), "and": Name(b), "windows in both": percent(share)}
        for a, b, share in pairs
    ]
    failed = [{"recording": Name(f.source), "why": f.error} for f in manifest.failed]
    odd = {*notes, *(name for a, b, _ in pairs for name in (a, b))}
    shown = [s for s in manifest.sessions if s.id in seen]
    unseen = sum(not s.is_removed for s in manifest.sessions) - len(looked)
    first = sorted(shown, key=lambda s: s.id not in odd)[:PICTURES]  # what is odd comes first
    parts = [
        numbers,
        section("Sessions that are there twice", as_table(twice)),
        section("Left out", as_table(failed)),
        window_section(shown, seen, bin_s),
        section("Sessions", sessions_table(manifest, notes)),
        section("Windows", windows_bars(manifest)),
        section("What sessions hold", *(session_charts(s, seen[s.id]) for s in first)),
    ]
    name = str(path).rstrip("/").rsplit("/", 1)[-1]
    out = storage.join(path, "report.html")
    storage.write_bytes(out, as_page("Corpus", name, headline(manifest, len(odd), unseen), parts))
    return out

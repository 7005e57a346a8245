"""An HTML page of a corpus: its sessions, what is odd, what was rejected, rates and traces.

At most `inspection.SEEN` windows of each session are read of each split, evenly over it.
"""

import numpy as np

from ndt3_dist import log, storage
from ndt3_dist.pages.chart import Series, as_chart, as_charts
from ndt3_dist.pages.inspection import Inspection, Signals, doubles, inspect_session
from ndt3_dist.pages.page import as_bars, as_facts, as_html, as_page, as_table, section, sentence
from ndt3_dist.pages.sessions_table import rejected_of, seconds_of, sessions_table
from ndt3_dist.pages.style import COLOURS
from ndt3_dist.pages.words import Name, Number, count, duration, percent, plural, size, words
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import SPLITS, Manifest, Session, read_manifest

PICTURES = 24
"""Sessions that get charts of their own."""


def windows_of(manifest: Manifest) -> tuple[dict[str, int], dict[str, int]]:
    """Windows kept by split and rejected by reason, all sessions together."""
    kept: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for session in manifest.sessions:
        for split, windows in session.windows.items():
            kept[split] = kept.get(split, 0) + windows.kept
        for reason, number in rejected_of(session).items():
            rejected[reason] = rejected.get(reason, 0) + number
    return {name: kept[name] for name in SPLITS if name in kept}, rejected


def headline(manifest: Manifest, odd: int) -> str:
    """The sentence that says what a corpus is, as HTML.

    Args:
        manifest: Of it.
        odd: Sessions that a person should look at.
    """
    sessions = [s for s in manifest.sessions if not s.is_removed]
    subjects = count(len({(s.dataset, s.subject) for s in sessions}))
    of_subjects = f"{plural(count(len(sessions)), 'session')} of {plural(subjects, 'subject')}"
    time = duration(sum(seconds_of(s, manifest) for s in sessions))
    told = [of_subjects, ", ", time]
    if odd:
        return sentence(*told, f": {count(odd)} to look at")
    return sentence(*told, ": nothing odd")


def facts(manifest: Manifest) -> dict[str, object]:
    """Numbers of the whole corpus."""
    kept, rejected = windows_of(manifest)
    lost = sum(rejected.values())
    window_s = manifest.window_bins * manifest.bin_size_ms / 1000
    streams = ", ".join(manifest.members)
    return {
        "windows": sum(kept.values()),
        "rejected": percent(lost / max(lost + sum(kept.values()), 1)),
        "window": Number(f"{window_s:g} s"),
        "bin": Number(f"{manifest.bin_size_ms:g} ms"),
        "size": size(sum(s.bytes for s in manifest.shards)),
        "shards": len(manifest.shards),
        "left out": len(manifest.failed),
        "streams": Name(streams),
        "fingerprint": Name(manifest.fingerprint[:12]),
    }


def windows_bars(manifest: Manifest) -> str:
    """Windows kept and rejected, as bars."""
    kept, rejected = windows_of(manifest)
    rows = [(f"Kept for {words(name)}", float(n), count(n), False) for name, n in kept.items()]
    rows += [(f"Rejected: {words(why)}", float(n), count(n), True) for why, n in rejected.items()]
    return as_bars(rows)


def labels_of(session: Session, stream: str, dims: int) -> list[str]:
    """What the dimensions of a stream are called: covariates have names."""
    if stream == "covariates" and len(session.covariates) == dims:
        return [Name(covariate.name) for covariate in session.covariates]
    return [f"dimension {d + 1}" for d in range(dims)]


def signals_chart(session: Session, name: str, seen: Signals) -> str:
    """A stretch of each window that is shown, as many dimensions as there are colours."""
    labels = labels_of(session, name, seen.trace.shape[1])
    time = np.arange(len(seen.trace)) / seen.rate_hz
    lines = [
        Series(time, seen.trace[:, d], label, d + 1, "thin")
        for d, label in enumerate(labels[:COLOURS])
    ]
    units = {s.name: s.unit for s in session.streams}
    unit = units.get(name, "")
    if len(labels) > COLOURS:
        unit = f"{unit}, the first {COLOURS} of {len(labels)} dimensions".removeprefix(", ")
    return as_chart(Name(name), lines, "s of windows side by side", unit=unit)


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
        charts.append(as_chart(Name(name), lines, "channel", unit="Hz"))
    charts += [signals_chart(session, name, signals) for name, signals in seen.signals.items()]
    heading = f"<h3>{as_html(Name(session.id))}</h3>"
    flags = "; ".join(seen.flags())
    return heading + (f'<p class="warn">{as_html(flags)}</p>' if flags else "") + as_charts(*charts)


def write_page(path: str) -> str:
    """Write CORPUS/report.html; its path.

    Raises:
        ManifestMismatch, ShardCorrupt: No corpus, or a damaged window.
    """
    manifest = read_manifest(path)
    bin_s = manifest.bin_size_ms / 1000
    corpora = [Corpus(path, (split,)) for split in sorted({s.split for s in manifest.shards})]
    seen: dict[str, Inspection] = {}
    for number, session in log.progress(list(enumerate(manifest.sessions)), "sessions"):
        found = None if session.is_removed else inspect_session(corpora, number, session, bin_s)
        if found:
            seen[session.id] = found
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
    shown = sorted(shown, key=lambda s: s.id not in odd)[:PICTURES]  # what is odd comes first
    parts = [
        as_facts(facts(manifest)),
        section("Sessions that are there twice", as_table(twice)),
        section("Left out", as_table(failed)),
        section("Sessions", sessions_table(manifest, notes)),
        section("Windows", windows_bars(manifest)),
        section("What sessions hold", *(session_charts(s, seen[s.id]) for s in shown)),
    ]
    name = str(path).rstrip("/").rsplit("/", 1)[-1]
    out = storage.join(path, "report.html")
    storage.write_bytes(out, as_page("Corpus", name, headline(manifest, len(odd)), parts))
    return out

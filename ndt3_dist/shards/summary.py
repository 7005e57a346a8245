"""A corpus in a table."""

from ndt3_dist.shards.manifest import Manifest


def corpus_rows(manifest: Manifest) -> list[dict]:
    """One row a session: id, channels, covariates, minutes, windows by split, rejected, spikes."""
    rows = []
    for session in manifest.sessions:
        if session.is_removed:
            continue
        rejected: dict[str, int] = {}
        for windows in session.windows.values():
            for reason, count in windows.rejected.items():
                rejected[reason] = rejected.get(reason, 0) + count
        seconds = session.bins * manifest.bin_size_ms / 1000
        rows.append(
            {
                "session": session.id,
                "channels": session.channels,
                "covariates": ",".join(c.name for c in session.covariates) or "-",
                "minutes": round(seconds / 60, 1),
                "windows": ", ".join(f"{w.kept} {s}" for s, w in session.windows.items()),
                "rejected": ", ".join(f"{n} {r}" for r, n in sorted(rejected.items())) or "-",
                "Hz/channel": round(session.spikes / seconds / max(session.channels, 1), 1),
            }
        )
    return rows


def corpus_table(manifest: Manifest) -> str:
    """`corpus_rows` as aligned plain text with totals."""
    rows = corpus_rows(manifest)
    windows = sum(s.samples for s in manifest.shards)
    size = sum(s.bytes for s in manifest.shards) / 1e6
    shards = f"{len(manifest.shards)} shards of {size:.1f} MB in all"
    return f"{text_table(rows)}\n{len(rows)} sessions, {windows} windows, {shards}"


def text_table(rows: list[dict]) -> str:
    """Rows of equal keys as aligned columns under their names."""
    if not rows:
        return ""
    cells = [list(rows[0]), *[[str(v) for v in row.values()] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]
    return "\n".join(lines)

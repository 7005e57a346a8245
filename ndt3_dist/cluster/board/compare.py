"""Tables of several runs side by side: how far they are, settings that differ, what they saw."""

import json
from collections.abc import Sequence

import numpy as np

from ndt3_dist import storage
from ndt3_dist.checkpoint import lineage
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.pages.columns import LARGEST_STEP
from ndt3_dist.pages.follow import look, read
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.page import as_html, section
from ndt3_dist.pages.run_config import flat
from ndt3_dist.pages.run_events import DAMAGE, LIVE, plain
from ndt3_dist.pages.style import COLOURS
from ndt3_dist.pages.words import NONE, Name, Number, count, duration, number, percent, score, words

MOST_ROWS = 100
MOST_LINEAGE = 64 << 20
"""Bytes of a lineage.json that is read."""
NO_SETTINGS = {"run.name", "run.dir"}
"""Settings in which all runs differ."""


def swatch(index: int) -> str:
    """The line of a run, as charts have it, with its number."""
    kind = f"k{1 + index % COLOURS} d{index // COLOURS}"
    return f'<span class="swatch {kind}"></span>{index + 1}'


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML that scrolls by itself; "" without rows."""
    if not rows:
        return ""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>{body}</table></div>'


def standings(runs: Sequence[FollowedRun]) -> str:
    """A row of each run, and a line of what of it cannot be read."""
    head = ["", "Run", "State", "Step", "Left", "Loss", "Validation", "Tokens/s", "MFU", "Ran on"]
    rows, faults = [], []
    for index, run in enumerate(runs):
        of = f" of {count(run.total)}" if run.total else ""
        left = duration(run.seconds_left) if run.state == LIVE else NONE
        start = run.events.last_start
        ranks = f"{start['ranks']} ranks" if "ranks" in start else ""
        place = ", ".join(str(part) for part in (ranks, start.get("device")) if part)
        cells = [run.state, Number(f"{count(run.step)}{of}"), left, score(run.recent("loss"))]
        cells += [validated(run), number(run.recent("tokens_per_s")), percent(run.recent("mfu"))]
        cells = [Name(run.name), *cells]
        rows.append([swatch(index), *map(as_html, cells), as_html(plain(place, 100))])
        if run.problem:
            faults.append(f'<p class="warn">{swatch(index)} {as_html(run.problem)}</p>')
        if run.left:
            left = f"{run.left / 1e6:.0f} MB of its metrics are still to be read"
            faults.append(f'<p class="note">{swatch(index)} {left}</p>')
    return "".join([grid(head, rows), *faults])


def validated(run: FollowedRun) -> str:
    """The best score of the metric that a run is validated by, in words."""
    scores = run.scores()
    metric = run.section("validation").get("metric")
    key = metric if metric in scores else next(iter(scores), "")
    values = run.columns.of(key) if key else np.empty(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return NONE
    best = values.min() if key.startswith("val_loss") else values.max()
    return f"{words(key.removeprefix('val_'))} {score(float(best))}"


def differences(runs: Sequence[FollowedRun]) -> str:
    """Settings in which the runs differ; of a single one all of them."""
    settings = [dict(flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for values in settings for key in values)
    shown = [
        key
        for key in keys
        if len(runs) == 1
        or (key not in NO_SETTINGS and len({values.get(key) for values in settings}) > 1)
    ]
    rows = [
        [as_html(Name(plain(key))), *(as_html(plain(v.get(key, NONE))) for v in settings)]
        for key in shown[:MOST_ROWS]
    ]
    more = f"<p class=note>{len(shown) - MOST_ROWS} more</p>" if len(shown) > MOST_ROWS else ""
    what = "Settings that differ" if len(runs) > 1 else "Settings"
    table = grid(["Setting", *(swatch(i) for i in range(len(runs)))], rows)
    if len(runs) > 1 and not shown and any(settings):
        table = "<p class=note>none</p>"
    return section(what, table, more)


class Lineages:
    """What runs have seen, from their lineage.json; read once as long as that does not change."""

    def __init__(self):
        self._kept: dict[str, tuple[str, list[tuple[str, str, int, set[str] | None]]]] = {}

    def stages(self, run: FollowedRun) -> list[tuple[str, str, int, set[str] | None]]:
        """Corpus, split, first step and sessions (None = nobody wrote them down) of each stage."""
        path = storage.join(run.path, lineage.FILE)
        try:
            now = look(path)
            if now is None or now.size > MOST_LINEAGE:
                return []
            if self._kept.get(path, ("",))[0] != now.tag:
                kept = json.loads(read(path, 0, now.size))
                stages = [*kept.get("before", []), *kept["stages"]]
                found = [
                    (
                        str(stage["corpus"]),
                        str(stage["split"]),
                        min(int(stage.get("from_step", 0)), LARGEST_STEP),
                        None if stage["sessions"] is None else {*map(str, stage["sessions"])},
                    )
                    for stage in stages
                ]
                self._kept[path] = now.tag, found
            return self._kept[path][1]
        except (Ndt3DistError, *DAMAGE):
            return []

    def section(self, runs: Sequence[FollowedRun]) -> str:
        """Corpora of the runs, and sessions that some have seen and others have not."""
        rows, seen = [], []
        for index, run in enumerate(runs):
            stages = self.stages(run)
            seen.append(set().union(*(sessions or () for *_, sessions in stages)))
            for corpus, split, step, sessions in stages:
                number_of = NONE if sessions is None else count(len(sessions))
                cells = [Name(corpus[:12]), split[:20], count(step), number_of]
                rows.append([swatch(index), *map(as_html, cells)])
        parts = [grid(["", "Corpus", "Split", "From step", "Sessions"], rows[:MOST_ROWS])]
        known = [names for names in seen if names]
        if len(known) > 1:
            shared = set.intersection(*known)
            apart = sorted(set().union(*known) - shared)
            lines = [
                [
                    as_html(Name(plain(name, 80))),
                    *("yes" if name in names else NONE for names in seen),
                ]
                for name in apart[:MOST_ROWS]
            ]
            said = f"{count(len(shared))} sessions that all have seen, {count(len(apart))} that not"
            parts.append(f"<p>{as_html(said)}</p>")
            parts.append(grid(["Session", *(swatch(i) for i in range(len(runs)))], lines))
        return section("Corpora and sessions", *parts)

"""What the board answers: the list of runs, and the view of those that are chosen."""

import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping

from ndt3_dist.cluster.board.collection import Card, Collection
from ndt3_dist.cluster.board.compare import Lineages, differences, standings
from ndt3_dist.cluster.board.curves import MOST_RUNS, View, charts
from ndt3_dist.cluster.board.time_line import time_line
from ndt3_dist.pages.columns import AXES
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.run_events import EMPTY
from ndt3_dist.pages.words import count, duration, number, score

READ_S = 0.5
"""Time that a view takes to read on; what is left is read by the next, which follows at once."""
MOST_ROWS = 200
"""Runs of a part of the list."""


class Answers:
    """Answers from the runs of a board; requests come from several threads."""

    def __init__(self, runs: Collection):
        self.runs, self.lineages = runs, Lineages()
        self._drawing = threading.Lock()

    def listed(self, asked: Mapping[str, str]) -> dict:
        """A part of the list of runs.

        Args:
            asked: filter, sort, from, count.
        """
        found = self.runs.listed(asked.get("filter", "")[:1000], asked.get("sort", ""))
        start = int(within(asked.get("from"), 0, max(0, len(found) - 1), 0))
        size = int(within(asked.get("count"), 1, MOST_ROWS, 50))
        known, every = len(self.runs.cards), self.runs.number
        said = f"{len(found):,} of {every:,} runs"
        if known < every:
            said += f", {known:,} looked at"
        if self.runs.fault:
            said += f"; new ones cannot be sought: {self.runs.fault}"
        part = [row_of(card) for card in found[start : start + size]]
        return {"matching": len(found), "from": start, "said": said, "runs": part}

    def view(self, asked: Mapping[str, str], have: str = "") -> dict | None:
        """Curves and tables of the chosen runs; None where nothing has changed.

        Args:
            asked: runs (ids, with commas between), x, log, smooth, left, right, keys.
            have: `tag` of the answer that the page shows.
        """
        axis = asked.get("x", "step")
        view = View(
            axis=axis if axis in AXES else "step",
            log=asked.get("log") == "1",
            smooth=within(asked.get("smooth"), 0, 1, 0.02),
            left=within(asked.get("left"), -1e18, 1e18, math.nan),
            right=within(asked.get("right"), -1e18, 1e18, math.nan),
            words=asked.get("keys", "")[:200],
        )
        until = time.monotonic() + READ_S
        with self._drawing:
            runs = self.runs.opened(asked.get("runs", "").split(",")[:MOST_RUNS])
            has_read = False
            for run in runs:
                if run.left and has_read and time.monotonic() > until:
                    continue  # its turn comes with the next view
                has_read = has_read or run.left > 0
                run.update(until - time.monotonic())
            tag = self._tag(runs, view)
            if tag == have:
                return None
            return self._drawn(runs, view, tag)

    def _tag(self, runs: list[FollowedRun], view: View) -> str:
        now = [(run.path, run.name, run.version, run.left, run.state) for run in runs]
        return hashlib.sha256(repr((now, view)).encode(errors="replace")).hexdigest()[:20]

    def _drawn(self, runs: list[FollowedRun], view: View, tag: str) -> dict:
        drawn, more = charts(runs, view)
        note = f"<p class=note>{more} more metrics: name some</p>" if more else ""
        if not drawn:
            note = "<p class=note>No curve of this name yet.</p>"
        parts = {
            "standings": standings(runs),
            "charts": f'<div class="charts">{"".join(drawn)}</div>{note}',
            "events": time_line(runs),
            "settings": differences(runs),
            "sessions": self.lineages.section(runs),
        }
        return {"tag": tag, "reading": any(run.left for run in runs), "parts": parts}


def row_of(card: Card) -> dict:
    """A run of the list as text."""
    step = f"{count(card.step)} of {count(card.total)}" if card.total else str(count(card.step))
    ago = max(0.0, time.time() - card.changed)
    return {
        "id": card.id,
        "name": card.name,
        "state": card.state,
        "step": "" if card.state == EMPTY else step,
        "loss": score(card.loss) if math.isfinite(card.loss) else "",
        "rate": f"{number(card.rate)}/s" if math.isfinite(card.rate) else "",
        "when": f"{duration(ago)} ago" if card.changed > 0 else "",
        "problem": card.problem,
    }


def within(text: str | None, low: float, high: float, default: float) -> float:
    """A number of a request, between two; the default where it is none."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return default
    return min(max(value, low), high) if math.isfinite(value) else default


def as_json(value: dict) -> bytes:
    """JSON that is safe wherever it is shown."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").encode()

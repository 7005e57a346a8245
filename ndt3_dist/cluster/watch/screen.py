"""A run on a terminal that is drawn anew: numbers, curves, checkpoints, faults and starts."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ndt3_dist.cluster.watch.sparkline import BLOCKS, PLAIN, sparkline
from ndt3_dist.errors import BadInput
from ndt3_dist.pages.followed_run import FollowedRun
from ndt3_dist.pages.run_events import EMPTY, KILLED, LIVE, plain
from ndt3_dist.pages.words import duration, told

FACTS = "loss", "lr", "tokens_per_s", "mfu", "memory_gb", "waiting_for_data_share"
"""Means of the last steps, of what is known; of `LAST` the last one."""
LAST = {"lr", "memory_gb"}
NO_CURVE = {"position", "samples", "epochs", "tokens", "val_s", "step_s", "wait_s", "tflops", "hfu"}
STYLES = {LIVE: "green", KILLED: "red", EMPTY: "dim"}
EVENTS = 6
"""The newest, on a screen of usual height."""


def need_rich() -> Any:
    """The library that draws. Raises BadInput where it is missing."""
    try:
        import rich
    except ImportError as e:
        raise BadInput(
            "watching on a screen needs rich: `pip install ndt3_dist[watch]`, or --lines"
        ) from e
    return rich


def show(run: FollowedRun, update: Callable[[], None], every_s: float) -> None:
    """Draw a run again and again, until Ctrl-C."""
    need_rich()
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            update()
            live.update(picture(run, console), refresh=True)
            time.sleep(every_s)


def picture(run: FollowedRun, console) -> Any:
    """What the screen shows, no higher than it is."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    room = console.height - 4
    parts: list[Any] = [headline(run)]
    if run.total:
        bar = ProgressBar(total=run.total, completed=min(run.step, run.total))
        parts.append(Padding(bar, 0))  # a bar alone does not end its line
    if run.problem:
        parts.append(Text(run.problem, style="red", no_wrap=True, overflow="ellipsis"))
    parts += [facts(run), Text()]
    events = events_of(run, EVENTS if room > 16 else 3)
    parts.append(curves(run, console, max(1, room - len(parts) - len(events) - 2)))
    return Group(*parts, Text(), *events)


def headline(run: FollowedRun) -> Any:
    """Name, state, step and the time to the end."""
    from rich.text import Text

    text = Text(plain(run.name, 60), style="bold", no_wrap=True, overflow="ellipsis")
    text.append(f"  {run.state}", style=STYLES.get(run.state, "yellow"))
    of = f" of {run.total:,} ({run.step / run.total:.1%})" if run.total else ""
    text.append(f"  step {run.step:,}{of}", style="not bold")
    if run.state == LIVE and math.isfinite(run.seconds_left):
        text.append(f"  {duration(run.seconds_left)} left", style="not bold")
    if run.left:
        text.append(f"  {run.left / 1e6:.0f} MB to read", style="dim")
    return text


def facts(run: FollowedRun) -> Any:
    """Numbers of now, side by side."""
    from rich.text import Text

    parts = []
    for key in FACTS:
        value = run.last(key) if key in LAST else run.recent(key)
        if math.isfinite(value):
            what, shown = told(key, value)
            parts.append(f"{'MFU' if key == 'mfu' else what} {shown}")
    return Text("   ".join(parts) or "no step yet", no_wrap=True, overflow="ellipsis")


def curves(run: FollowedRun, console, rows: int) -> Any:
    """Each metric of all sessions: its last value, the least, the greatest, and its curve."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("", "last", "least", "most", "", style="dim")
    levels = BLOCKS if "utf" in console.encoding.lower() else PLAIN
    keys = [k for k in run.columns.names() if k not in NO_CURVE and "/" not in k]
    keys.sort(key=lambda key: (key != "loss", not key.startswith("val_")))
    for key in keys[:rows]:
        values = run.columns.of(key)
        line = sparkline(values, max(10, console.width - 60), levels)
        if line:
            ends = run.last(key), float(np.nanmin(values)), float(np.nanmax(values))
            what = "MFU" if key == "mfu" else told(key, None)[0]
            table.add_row(plain(what, 24), *(told(key, value)[1] for value in ends), line)
    return table


def events_of(run: FollowedRun, number: int) -> list[Any]:
    """The newest starts, checkpoints and faults, the last one first."""
    from rich.text import Text

    found = []
    for event in run.events.all()[::-1][:number]:
        when = time.strftime("%d %b %H:%M", time.localtime(event.time)) if event.time > 0 else ""
        step = "" if event.step is None else f" of step {event.step}"
        style = "red" if event.kind == "fault" else ""
        line = f"{when:12}  {event.kind}{step}  {event.text}"
        found.append(Text(line, style=style, no_wrap=True, overflow="ellipsis"))
    return found

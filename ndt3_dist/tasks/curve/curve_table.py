"""What came of a curve in numbers: a row a cell, a table of means, and who wins from where on.

Decoders are set beside each other seed by seed, on equal bins: a difference of means could come of
another draw of the bins, that of one seed cannot. Who is ahead on every seed wins. Seeds share most
of their bins where the amount is large, so that a hundred of them would not be a hundred sessions.
"""

import csv
import io
import math
from statistics import mean, stdev
from typing import Any

from ndt3_dist.tasks.curve.cells import Curve

Cells = list[dict[str, Any]]
"""As `kept.Kept.found` gives them."""


def csv_text(cells: Cells, dims: list[str]) -> str:
    """One line a cell, all that it was scored by."""
    file = io.StringIO()
    columns = ["decoder", "amount", "minutes", "bins", "seed", "r2", "r2_uniform", "r2_flat"]
    columns += [f"r2 {dim}" for dim in dims]
    chosen = ["rate", "history", "penalty", "orders"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, "test_bins", "r2_held_back", *chosen])
    for cell in cells:
        scores, picked = cell["scores"], cell["chosen"]
        row = [cell[k] for k in columns[:5]] + [scores[k] for k in columns[5:8]]
        row += [*scores["r2_per_dimension"], scores["bins"], cell["held_back"]]
        orders = " ".join(map(str, picked.get("orders", [])))
        writer.writerow([*row, *(picked.get(k, "") for k in chosen[:3]), orders])
    return file.getvalue()


def scores_of(cells: Cells, decoder: str, amount: str) -> dict[int, float]:
    """R2 by seed, of those that have one."""
    found = [c for c in cells if (c["decoder"], c["amount"]) == (decoder, amount)]
    return {c["seed"]: c["scores"]["r2"] for c in found if c["scores"]["r2"] is not None}


def centre(values: list[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds (n - 1; 0 of one); NaN of none."""
    if not values:
        return math.nan, math.nan
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def table_rows(curve: Curve, cells: Cells) -> list[dict[str, Any]]:
    """A row an amount: mean and spread over seeds of each decoder."""
    rows = []
    for amount in curve.amounts:
        row: dict[str, Any] = {"amount": amount.label, "minutes": f"{amount.minutes:.3g}"}
        for decoder in curve.decoders:
            values = [*scores_of(cells, decoder, amount.label).values()]
            middle, spread = centre(values)
            shown = f"{middle:.3f} +- {spread:.3f}" if len(values) > 1 else f"{middle:.3f}"
            row[decoder] = shown if values else "-"
        rows.append(row)
    return rows


def differences(cells: Cells, one: str, other: str, amount: str) -> list[float]:
    """By how much a decoder is ahead of another, on each seed that both have."""
    a, b = scores_of(cells, one, amount), scores_of(cells, other, amount)
    return [a[seed] - b[seed] for seed in sorted({*a} & {*b})]


def verdict(curve: Curve, cells: Cells, one: str, other: str) -> str:
    """Where a decoder wins against another, in a line; "" where they have no cell in common."""
    won, open_, lost = [], [], []
    for amount in curve.amounts:
        apart = differences(cells, one, other, amount.label)
        if not apart:
            continue
        ahead = sum(d > 0 for d in apart)
        said = f"{amount.label} ({mean(apart):+.3f}"
        if ahead == len(apart):
            won.append(f"{said})")
        elif ahead == 0:
            lost.append(f"{said})")
        else:
            open_.append(f"{said}, ahead on {ahead} of {len(apart)} seeds)")
    said = [f"ahead at {', '.join(won)}"] if won else ["nowhere ahead on every seed"]
    said += [f"undecided at {', '.join(open_)}"] if open_ else []
    said += [f"behind at {', '.join(lost)}"] if lost else []
    return f"{one} against {other}: {'; '.join(said)}" if won or open_ or lost else ""


def headline(curve: Curve, cells: Cells, one: str, other: str) -> str:
    """From where on a decoder wins against another, or does not."""
    known = [(a, d) for a in curve.amounts if (d := differences(cells, one, other, a.label))]
    if not known:
        return ""
    wins = [all(x > 0 for x in apart) for _, apart in known]
    first = next((i for i, won in enumerate(wins) if not won), len(wins))
    place = [f"{a.label} of the split" if a.key == "data.share" else a.label for a, _ in known]
    sure = "on every seed" if curve.seeds > 1 else "on the one seed, which may be chance"
    if all(wins):
        return f"{one} wins against {other} at every amount, {sure}"
    if not any(wins):
        return f"{one} wins against {other} at no amount"
    if not any(wins[first:]):
        return (
            f"{one} wins against {other} up to {place[first - 1]}, {sure}; from {place[first]} on "
            "it does not"
        )
    won = [p for p, w in zip(place, wins, strict=True) if w]
    return f"{one} wins against {other} at {', '.join(won)}, {sure}, and not at the others"


def summary(curve: Curve, cells: Cells) -> list[str]:
    """All that can be said in lines: of the first decoder against each other one."""
    one, *others = curve.decoders
    lines = [line for other in others if (line := headline(curve, cells, one, other))]
    lines += [line for other in others if (line := verdict(curve, cells, one, other))]
    edges = {}
    for cell in cells:
        if edge := cell["chosen"].get("at_edge"):
            edges.setdefault((cell["decoder"], edge), {})[cell["amount"]] = None
    for (decoder, edge), amounts in edges.items():
        lines.append(
            f"{decoder}: the {edge} learning rate was best at {', '.join(amounts)}; a better one "
            "may lie beyond (--rates)"
        )
    return lines

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

SAME = 5e-4
"""R2 by which two decoders differ at least, where one is ahead: less is not shown either."""
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
    """From where on a decoder wins against another or does not, with the mean differences.

    It wins at an amount where it is ahead on every seed. "" where both have no cell in common.
    """
    known = [(a, d) for a in curve.amounts if (d := differences(cells, one, other, a.label))]
    if not known:
        return ""
    wins = [all(x > SAME for x in apart) for _, apart in known]
    places = [a.label for a, _ in known]
    first = next((i for i, won in enumerate(wins) if not won), len(wins))
    sure = "on every seed" if curve.seeds > 1 else "on the one seed, which may be chance"
    if all(wins):
        said = f"at every amount, {sure}"
    elif not any(wins):
        said = "at no amount"
    elif not any(wins[first:]):
        said = f"up to {places[first - 1]}, {sure}; from {places[first]} on it does not"
    else:
        said = ", ".join(p for p, won in zip(places, wins, strict=True) if won)
        said = f"at {said}, {sure}, and not at the others"
    shown = []
    for place, (_, apart) in zip(places, known, strict=True):
        ahead, behind = sum(x > SAME for x in apart), sum(x < -SAME for x in apart)
        split = f", ahead on {ahead} of {len(apart)} seeds" if 0 < ahead < len(apart) else ""
        split = split or ", no difference" * (not ahead and not behind)
        shown.append(f"{mean(apart):+.3f} at {place}{split}")
    return f"{one} wins against {other} {said} ({'; '.join(shown)})"


def summary(curve: Curve, cells: Cells) -> list[str]:
    """All that can be said in lines: of the first decoder against each other one."""
    one, *others = curve.decoders
    lines = [line for other in others if (line := verdict(curve, cells, one, other))]
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

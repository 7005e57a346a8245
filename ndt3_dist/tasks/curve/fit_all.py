"""Every cell of a curve that lacks, side by side on Ray or in turn; each is kept as it ends."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from ndt3_dist import log
from ndt3_dist.cluster.search import tuning
from ndt3_dist.errors import Ndt3DistError
from ndt3_dist.tasks.curve.cells import NETS, Cell, Curve
from ndt3_dist.tasks.curve.kept import Kept
from ndt3_dist.tasks.curve.nets import Chosen, choose_rates, open_search
from ndt3_dist.tasks.curve.one_cell import one_cell


class curve_ray(tuning.tune_ray):
    """A Ray of our own, with Ray Tune."""

    EXTRA, INSTEAD = "search", "--workers 0 fits in this process without it"


def fit_all(curve: Curve, kept: Kept, workers: int, gpus: float, threads: int) -> list[str]:
    """Fit and score what lacks.

    Args:
        workers: Cells at the same time; 0 = in turn, without Ray.
        gpus: Of a network's cell, or a fraction.
        threads: Of a network's cell.
    Returns:
        A line for each that failed.
    """
    lacking = kept.lacking(curve.cells())
    if not lacking:
        return []
    with ExitStack() as held:
        pool = held.enter_context(curve_ray("local", workers)) if workers else None
        searches = {}
        for cell in lacking:
            name = f"{cell.decoder} {cell.amount.label}"
            if cell.decoder in NETS and name not in searches:
                what = curve, cell.decoder, cell.amount, kept.out, threads, held
                searches[name] = open_search(*what)
        rates = choose_rates(searches, max(workers, 1), gpus, pool)
        return score(curve, kept, lacking, rates, pool, gpus)


def score(
    curve: Curve, kept: Kept, cells: list[Cell], rates: dict[str, Chosen], pool: Any, gpus: float
) -> list[str]:
    """Score cells, linear ones fitted on the way, and keep them; lines on those that failed."""
    failed = [f"{name}: {one.error}" for name, one in rates.items() if one.error]
    found = {cell: rates.get(f"{cell.decoder} {cell.amount.label}", Chosen()) for cell in cells}
    cells = [cell for cell in cells if not found[cell].error]
    jobs = []
    for cell in cells:
        number = cell.seed - curve.config.run.seed
        run = found[cell].runs[number] if found[cell].runs else ""
        config = curve.fit_config(cell.amount, cell.seed).model_dump(mode="json")
        jobs.append((cell.decoder, config, curve.test, run))
    ended = pool.run_all(one_cell, jobs, gpus=gpus) if pool else in_turn(jobs)
    for number, result in log.progress(ended, "scoring, cells", len(jobs)):
        cell, rate = cells[number], found[cells[number]]
        if isinstance(result, Exception):
            if not isinstance(result, Ndt3DistError):
                raise result
            failed.append(f"{cell.decoder} {cell.amount.label} seed {cell.seed}: {result}")
            continue
        if rate.runs:
            result["held_back"] = rate.scores[cell.seed - curve.config.run.seed]
            if cell.decoder != "readout":
                result["chosen"] |= {"rate": rate.rate, "at_edge": rate.at_edge}
        kept.keep(cell, result)
    return failed


def in_turn(jobs: list[tuple]) -> Iterator[tuple[int, Any]]:
    """As `pool.run_all`, in this process."""
    for number, job in enumerate(jobs):
        try:
            yield number, one_cell(*job)
        except Ndt3DistError as e:
            yield number, e

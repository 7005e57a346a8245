"""What came of a search: a table, a page with pictures, and the winner as a whole YAML."""

import math
from pathlib import Path

import numpy as np

from ndt3_dist import storage
from ndt3_dist.cluster.search.base import as_yaml
from ndt3_dist.cluster.search.driver import Search
from ndt3_dist.cluster.search.record import Trial
from ndt3_dist.cluster.search.space import Domain, Space
from ndt3_dist.pages.chart import Series, as_chart, as_charts
from ndt3_dist.pages.page import as_page, as_table, section, sentence
from ndt3_dist.pages.words import Name

BEST, PAGE = "best.yaml", "search.html"


def ranked(space: Space, trials: list[Trial]) -> list[Trial]:
    """The best first: those that went to their end, then those that were stopped, then failures."""
    sign = -1 if space.direction == "max" else 1

    def place(trial: Trial) -> tuple:
        kinds = {"done": 0, "stopped": 1, "": 1, "failed": 3}
        score = sign * trial.score if math.isfinite(trial.score) else math.inf
        return kinds[trial.ended], -trial.step * (trial.ended != "done"), score, trial.number

    return sorted(trials, key=place)


def best_of(space: Space, trials: list[Trial]) -> Trial | None:
    """The winner among those that went to their end."""
    first = ranked(space, trials)[:1]
    return first[0] if first and first[0].ended == "done" else None


def table_rows(space: Space, trials: list[Trial]) -> list[dict]:
    """One a trial, the best first."""
    rows = []
    for rank, trial in enumerate(ranked(space, trials), 1):
        shown = {key: _shown(value) for key, value in trial.settings.items()}
        score = f"{trial.score:.4f}" if math.isfinite(trial.score) else "-"
        spread = f"{trial.spread:.4f}" if math.isfinite(trial.spread) else "-"
        rows.append(
            {"rank": str(rank) if trial.ended == "done" else "-", "trial": trial.number, **shown}
            | {f"validation {space.metric}": score, "seeds' spread": spread}
            | {"steps": trial.step, "seconds": round(trial.seconds, 1)}
            | {"end": trial.error or trial.ended or "under way"}
        )
    return rows


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headline(space: Space, trials: list[Trial]) -> str:
    """The winner in a sentence, and what its score is worth."""
    best = best_of(space, trials)
    if best is None:
        return "no setting went to its end"
    tried = sum(bool(t.scores) for t in trials)
    seeds = (
        "one seed, so how much of that is chance is not known (--seeds 3 would tell)"
        if space.seeds == 1
        else f"mean of {space.seeds} seeds, whose standard deviation is {best.spread:.4f}"
    )
    settings = ", ".join(f"{k}={_shown(v)}" for k, v in best.settings.items())
    return (
        f"best: trial {best.number}, {settings}: validation {space.metric} {best.score:.4f}, "
        f"{seeds}; the best of {tried} is chosen by this very score, which promises more than test "
        "will give"
    )


def write_best(search: Search, trial: Trial) -> Path:
    """The winner's whole config, under a name of its own; a comment says where it comes from."""
    base, space, path = search.base, search.space, search.record.out / BEST
    run = base.values["run"]
    config = base.config(trial.settings, BEST, name=f"{run['name']}_best")
    init = f" --init {search.init}" * bool(search.init) + " --scratch" * search.scratch
    said = [f"# ndt3 {base.kind} --config {path}{init}"]
    said += [
        f"# Trial {trial.number} of a search by {space.method}: validation {space.metric} "
        f"{trial.score:.6g}, {space.seeds} seed{'s' * (space.seeds > 1)}."
    ]
    if trial.moves:
        said += [
            "# These are its last settings; it reached that score by changing them on the way:",
            *(f"# behind step {m['step']} a copy of trial {m['from']}" for m in trial.moves),
        ]
    storage.write_bytes(path, "\n".join([*said, as_yaml(config)]).encode())
    return path


def write_page(search: Search, trials: list[Trial]) -> Path:
    """Scores over each key, the best so far over trials, and the table."""
    space, path = search.space, search.record.out / PAGE
    known = [t for t in trials if math.isfinite(t.score)]
    charts = [_over_key(space, known, *item) for item in space.domains.items()]
    ends = [t for t in known if t.ended == "done"]
    scores = np.array([t.score for t in ends])
    numbers = np.array([t.number for t in ends], float)
    so_far = (np.maximum if space.direction == "max" else np.minimum).accumulate(scores)
    progress = as_chart(
        f"best validation {space.metric} so far",
        [Series(numbers, scores, "trials", 1, "dot"), Series(numbers, so_far, "best so far", 0)],
        "trial",
        wide=True,
    )
    best = best_of(space, trials)
    rows = table_rows(space, trials)
    parts = [
        as_charts(progress),
        section("Score over each key", as_charts(*charts)),
        section("Trials", as_table([_with_names(row) for row in rows], 0 if best else None)),
    ]
    name = search.record.out.name
    storage.write_bytes(path, as_page("Search", name, sentence(headline(space, trials)), parts))
    return path


def _with_names(row: dict) -> dict:
    return {Name(key) if "." in key else key: value for key, value in row.items()}


def _over_key(space: Space, trials: list[Trial], key: str, domain: Domain) -> str:
    """Each trial a point: those that ended, and those that were stopped at a step before."""
    of_x = key
    if domain.values:
        of_x = f"{key}: " + ", ".join(f"{i} = {_shown(v)}" for i, v in enumerate(domain.values))
    elif domain.scale == "loguniform":
        of_x = f"{key}, power of ten"

    def place(value) -> float:
        if domain.values:
            return float(domain.values.index(value))
        return math.log10(value) if domain.scale == "loguniform" else float(value)

    series = []
    for colour, ended in ((2, "stopped"), (1, "done")):
        found = [t for t in trials if t.ended == ended]
        if found:
            x = np.array([place(t.settings[key]) for t in found])
            y = np.array([t.score for t in found])
            series.append(Series(x, y, ended if ended == "stopped" else "", colour, "dot"))
    return as_chart(f"validation {space.metric}", series, of_x)

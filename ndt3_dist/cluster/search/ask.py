"""Which setting comes next, and what becomes of a population: functions of what is recorded."""

import math
from collections.abc import Sequence
from typing import Any

from ndt3_dist.cluster.search.record import Trial
from ndt3_dist.cluster.search.space import Domain, Space
from ndt3_dist.data.order import generator, seed_of
from ndt3_dist.errors import BadInput

AT_RANDOM = 4
"""Trials of a bayes, at least, that are drawn as in a random search."""


def next_setting(space: Space, trials: Sequence[Trial]) -> dict[str, Any]:
    """Of the trial behind those that are known."""
    if space.method == "bayes" and len(trials) >= max(AT_RANDOM, len(space.space) + 2):
        return _likely(space, trials)
    return space.setting(len(trials))


def check_optuna() -> None:
    """Raises BadInput where it is not installed."""
    try:
        import optuna  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise BadInput(f"method bayes needs Optuna ({e}); pip install 'ndt3_dist[search]'") from e


def _likely(space: Space, trials: Sequence[Trial]) -> dict[str, Any]:
    """By Optuna from all trials that are over; one that failed counts as the worst of the others.

    Nothing is kept of a study: one is made of what is recorded each time, with a seed of its own.
    """
    import optuna  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = seed_of("search", space.draw, len(trials)) % (1 << 32)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    direction = "maximize" if space.direction == "max" else "minimize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    domains = space.domains
    kinds: dict[str, Any] = {key: _distribution(domain) for key, domain in domains.items()}
    known = [t.score for t in trials if t.ended == "done" and math.isfinite(t.score)]
    worst = (min if space.direction == "max" else max)(known, default=math.nan)
    for trial in trials:
        value = trial.score if trial.ended == "done" else worst if trial.ended else math.nan
        if math.isfinite(value):
            inside = {k: _inside(domains[k], v) for k, v in trial.settings.items()}
            study.add_trial(
                optuna.trial.create_trial(params=inside, distributions=kinds, value=value)
            )
    found = study.ask(kinds).params
    return {k: domains[k].values[v] if domains[k].values else v for k, v in found.items()}


def _distribution(domain: Domain):
    from optuna import distributions as kinds  # pyright: ignore[reportMissingImports]

    if domain.values:  # by number: values may be lists, which Optuna does not take
        return kinds.CategoricalDistribution(range(len(domain.values)))
    if domain.scale == "int":
        return kinds.IntDistribution(int(domain.low), int(domain.high))
    return kinds.FloatDistribution(domain.low, domain.high, log=domain.scale == "loguniform")


def _inside(domain: Domain, value: Any) -> Any:
    return domain.values.index(value) if domain.values else value


def moves(space: Space, trials: Sequence[Trial], step: int) -> list[tuple[int, int, dict]]:
    """What becomes of a population at a step that all have reached.

    Returns:
        (trial that lags behind, the one whose copy it goes on from, its new settings); each of the
        latter is among the best, and none is among the former.
    """
    sign = 1 if space.direction == "max" else -1
    alive = [t for t in trials if step in t.scores]  # one that fails later was there, too
    scores = {t.number: sign * math.fsum(t.scores[step]) for t in alive}
    ranked = sorted(alive, key=lambda t: (-scores[t.number], t.number))
    few = min(math.ceil(space.share * len(ranked)), len(ranked) // 2)
    found = []
    for loser in ranked[len(ranked) - few :]:
        random = generator("search move", space.draw, step, loser.number)
        winner = ranked[int(random.integers(few))]
        settings = {k: d.perturbed(winner.settings[k], random) for k, d in space.domains.items()}
        found.append((loser.number, winner.number, settings))
    return found

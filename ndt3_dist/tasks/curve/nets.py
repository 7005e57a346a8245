"""Learning rates of a curve's networks: a search for each decoder and amount, over all seeds.

The part that is held back chooses, by its mean over seeds: a rate is no matter of luck with one
seed, and no test bin has a say. The winner's runs are the cells, so nothing is fitted twice. Ray
Tune runs trials of all searches side by side, or this process one after the other.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndt3_dist import log
from ndt3_dist.cluster.search.advance import SettingFailed, advance
from ndt3_dist.cluster.search.base import Base
from ndt3_dist.cluster.search.driver import Driver, Search
from ndt3_dist.cluster.search.outcome import best_of
from ndt3_dist.cluster.search.record import Record, Trial
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.tasks.curve.cascade import histories
from ndt3_dist.tasks.curve.cells import Amount, Curve
from ndt3_dist.tasks.curve.gru import KIND, GruConfig

FOLDER = "searches"


def base_of(curve: Curve, decoder: str, amount: Amount) -> Base:
    """The config that rates are laid upon."""
    config = curve.gru if decoder == "gru" else curve.config
    values = config.model_dump(mode="json")
    values["data"][amount.key.split(".")[1]] = amount.value
    if decoder == "readout":
        values["train"]["steps"] = 0
        values["readout"]["history"] = histories(amount.bins)
    return Base(KIND, values, GruConfig) if decoder == "gru" else Base("finetune", values)


def space_of(curve: Curve, decoder: str) -> Space:
    """A grid of rates; what is read out makes no steps and has one that is not used."""
    own = curve.gru.optim.lr if decoder == "gru" else curve.config.optim.lr
    rates = [own] if decoder == "readout" else curve.rates or [own]
    settled = {"metric": "val_r2", "direction": "max", "trials": len(rates), "seeds": curve.seeds}
    return Space(method="grid", space={"optim.lr": rates}, **settled)


def open_search(
    curve: Curve, decoder: str, amount: Amount, out: Path, threads: int, held: ExitStack
) -> Search:
    """The search of a decoder and an amount, its record held as long as `held` is."""
    base, space = base_of(curve, decoder, amount), space_of(curve, decoder)
    folder = out / FOLDER / f"{decoder}_{amount.name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    asked = {**space.model_dump(mode="json"), "config": base.values}
    record = held.enter_context(Record(folder, asked))
    if decoder == "gru":  # what it multiplies is too small to be shared out
        return Search(base, space, record, None, False, 1)
    return Search(base, space, record, curve.init, decoder == "scratch", threads)


@dataclass
class Chosen:
    """The rate of a decoder and an amount.

    Attributes:
        rate: That the held-back part chose.
        scores: R2 of the held-back part by seed.
        runs: Folder of each seed's run.
        at_edge: lowest or highest: a better rate may lie beyond those that were tried.
        error: Why there is no rate.
    """

    rate: float = float("nan")
    scores: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()
    at_edge: str = ""
    error: str = ""


def chosen(search: Search) -> Chosen:
    """What a search that is over found."""
    record, rates = search.record, [*search.space.domains["optim.lr"].values]
    best = best_of(search.space, record.trials)
    if best is None:
        return Chosen(error=f"{record.trials[0].error} ({record.folder(0)})")
    rate, edge = best.settings["optim.lr"], ""
    if len(rates) > 2 and rate in (min(rates), max(rates)):
        edge = "lowest" if rate == min(rates) else "highest"
    runs = [str(record.folder(best.number) / f"seed{n}") for n in range(search.space.seeds)]
    return Chosen(rate, tuple(best.scores[best.step]), tuple(runs), edge)


class Together:
    """Several drivers as one: the first that has a trial to run gives it."""

    def __init__(self, searches: list[Search], at_once: int, say: Callable[[Search, Trial], None]):
        """
        Args:
            at_once: Trials at the same time, of all searches.
            say: Is told of each trial that is over.
        """
        self.drivers = [Driver(s, at_once, lambda t, s=s: say(s, t)) for s in searches]
        self.at_once = at_once
        self.running: dict[str, Driver] = {}

    def next_job(self, name: str) -> dict[str, Any] | None:
        for driver in self.drivers if len(self.running) < self.at_once else ():
            if job := driver.next_job(name):
                self.running[name] = driver
                return job
        return None

    def take(self, name: str, result: dict | None) -> None:
        self.running[name].take(name, result)

    def over(self, name: str, result: dict | None, is_lost: bool) -> None:
        self.running.pop(name).over(name, result, is_lost)

    @property
    def is_over(self) -> bool:
        return all(driver.is_over for driver in self.drivers)


def run_here(asked: Together) -> None:
    """All trials in turn, without Ray."""
    while job := asked.next_job("here"):
        began = time.monotonic()
        try:
            found = advance(job, 0)
        except SettingFailed as e:
            found = {"failed": str(e)}
        asked.take("here", {**found, "seconds": round(time.monotonic() - began, 2)})
        asked.over("here", None, False)


def choose_rates(
    searches: dict[str, Search], at_once: int, gpus: float, pool: Any
) -> dict[str, Chosen]:
    """Run what is not over yet.

    Args:
        searches: By name of decoder and amount.
        at_once: Trials at the same time.
        gpus: Of each, or a fraction.
        pool: A Ray that runs (`tuning.tune_ray`); None = in turn.
    """
    names = {id(search): name for name, search in searches.items()}
    over = sum(bool(t.ended) for s in searches.values() for t in s.record.trials)
    total = sum(s.space.trials for s in searches.values())

    def say(search: Search, trial: Trial) -> None:
        what = f"{names[id(search)]} at rate {trial.settings['optim.lr']:g}"
        what = what if search.base.steps else names[id(search)]
        if trial.error:
            log.warn(f"{what} failed: {trial.error} ({search.record.folder(trial.number)})")
        else:
            log.say(f"{what}: held-back R2 {trial.score:.4f}")
        shown.add()

    if over < total:
        with log.counting("fitting, rates of decoders and amounts", total, over) as shown:
            asked = Together([*searches.values()], at_once, say)
            if pool:
                from ndt3_dist.cluster.search.tuning import run_trials

                run_trials(asked, gpus, pool.folder)
            else:
                run_here(asked)
    return {name: chosen(search) for name, search in searches.items()}

"""Which trial runs next, and what came of it: everything follows from the record."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ndt3_dist.cluster.search.ask import moves, next_setting
from ndt3_dist.cluster.search.base import Base, as_yaml, stops
from ndt3_dist.cluster.search.record import Record, Trial
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.errors import BadInput
from ndt3_dist.tune.folder import adopt


@dataclass
class Search:
    """What is searched.

    Attributes:
        base, space: Checked.
        record: Held.
        init, scratch: As of the program that runs a setting.
        threads: Of a run.
    """

    base: Base
    space: Space
    record: Record
    init: str | None
    scratch: bool
    threads: int

    def job(self, trial: Trial, looks: list[int]) -> dict[str, Any]:
        """What a worker needs to bring a trial through some steps; writes its seeds' configs."""
        folder = self.record.folder(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(self.space.seeds):
            config = self.config(trial, seed)
            (folder / f"seed{seed}.yaml").write_text(as_yaml(config))
        what = {"trial": trial.number, "folder": str(folder), "kind": self.base.kind}
        what |= {"seeds": self.space.seeds, "metric": self.space.metric, "threads": self.threads}
        what |= {"init": self.init, "scratch": self.scratch, "steps": self.base.steps}
        return {**what, "looks": looks}

    def config(self, trial: Trial, seed: int) -> Any:
        """Of one seed of a trial."""
        place = {"dir": str(self.record.folder(trial.number)), "name": f"seed{seed}"}
        number = self.base.values["run"]["seed"] + seed
        return self.base.config(trial.settings, f"trial {trial.number}", seed=number, **place)

    def move(self, loser: int, winner: int, step: int, settings: dict[str, Any]) -> None:
        """Let a trial go on from a copy of another one. A kill in between is made good by doing
        it again: nobody trains meanwhile."""
        there, copied = self.record.folder(loser), self.record.folder(winner)
        trial = Trial(loser, settings)
        for seed in range(self.space.seeds):
            run, new = there / f"seed{seed}", there / f"seed{seed}.new"
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(copied / f"seed{seed}", new)
            for mark in (new / ".lock", new / "lease.json"):
                mark.unlink(missing_ok=True)
            if self.base.kind == "finetune":
                adopt(new, self.config(trial, seed))
            shutil.rmtree(run, ignore_errors=True)
            new.rename(run)
            shutil.copy(copied / f"seed{seed}.json", there / f"seed{seed}.json")
        self.record.add(loser, step=step, settings=settings, **{"from": winner})


class Driver:
    """What Tune asks and tells: the next trial, and what came of it; all of it from the record."""

    def __init__(self, what: Search, at_once: int, say: Callable[[Trial], None]):
        """
        Args:
            at_once: Trials at the same time.
            say: Is told of each trial that is over.
        """
        self.what, self.at_once, self.say = what, at_once, say
        self.record, self.space = what.record, what.space
        self.looks = stops(what.base, what.space)
        self.queue: dict[str, int] = {}
        """Trials that run, by Tune's names."""

    def next_job(self, name: str) -> dict[str, Any] | None:
        """The next one for a trial that Tune calls so; None where others must end before."""
        if len(self.queue) >= self.at_once:
            return None
        for trial, looks in self._waiting():
            try:
                job = self.what.job(trial, looks)
            except BadInput as e:  # of a combination that could not be checked beforehand
                self.end(trial.number, "failed", error=str(e))
                continue
            self.queue[name] = trial.number
            return job
        return None

    def _waiting(self) -> Iterator[tuple[Trial, list[int]]]:
        """Trials that may run now, with the steps at which they are to be looked at."""
        record, space = self.record, self.space
        if space.method == "pbt":
            while len(record.trials) < space.trials:
                self._begin()
            look = self._look_of_population()
            for trial in [*record.trials]:
                if look is not None and self._is_free(trial) and look not in trial.scores:
                    yield trial, [look]
            return
        for trial in [*record.trials]:
            if self._is_free(trial):
                yield trial, [look for look in self.looks if not 0 < look <= trial.step]
        while len(record.trials) < space.trials:
            yield self._begin(), self.looks

    def _begin(self) -> Trial:
        record = self.record
        return record.add(len(record.trials), settings=next_setting(self.space, record.trials))

    def _is_free(self, trial: Trial) -> bool:
        return not trial.ended and trial.number not in self.queue.values()

    def _look_of_population(self) -> int | None:
        """The step that a population is on its way to; moves it where all have reached one."""
        before = 0
        for look in self.looks:
            alive = [t for t in self.record.trials if not t.ended]
            if any(look not in t.scores for t in alive):
                if before:
                    moved = [t.number for t in alive for m in t.moves if m["step"] == before]
                    for loser, winner, settings in moves(self.space, self.record.trials, before):
                        if loser not in moved and not self.record.trials[loser].ended:
                            self.what.move(loser, winner, before, settings)
                return look
            before = look
        return None

    def take(self, name: str, result: dict | None) -> None:
        """What a worker told; again is as good as once."""
        number, result = self.queue[name], result or {}
        trial = self.record.trials[number]
        if trial.ended or not {"scores", "failed"} & {*result}:
            return
        if "failed" in result:
            self.end(number, "failed", error=result["failed"])
            return
        if result["steps"] not in trial.scores or result["over"]:
            told = {"scores": result["scores"], "seconds": result["seconds"]}
            self.record.add(number, step=result["steps"], **told)
        if result["over"]:
            self.end(number, "done")

    def over(self, name: str, result: dict | None, is_lost: bool) -> None:
        """A worker has no more to do with a trial."""
        self.take(name, result)
        trial = self.record.trials[self.queue.pop(name)]
        if is_lost and not trial.ended:
            self.end(trial.number, "failed", error="its worker was killed; out of memory?")
        elif self.space.method == "asha" and not trial.ended:
            self.end(trial.number, "stopped")

    def end(self, number: int, ended: str, **why: str) -> None:
        self.say(self.record.add(number, ended=ended, **why))

    @property
    def is_over(self) -> bool:
        known = self.record.trials
        return len(known) >= self.space.trials and all(t.ended for t in known)

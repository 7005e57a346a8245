"""Ray Tune runs the trials of a search: devices, workers and who ends early are its own; which
trials there are it asks the `driver`. The only file that imports it.

Tune's own record of an experiment is a pickle. It lies in Ray's private folder and goes with it; a
search is resumed from `record` alone: what is over is told to Tune's scheduler anew.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ndt3_dist.cluster.search.advance import SettingFailed, advance
from ndt3_dist.cluster.search.base import Base
from ndt3_dist.cluster.search.driver import Driver, Search
from ndt3_dist.cluster.search.record import Trial
from ndt3_dist.cluster.search.space import Space
from ndt3_dist.errors import ClusterFailed
from ndt3_dist.prep.pool import any_ray, in_a_line

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a setting that failed has no score
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class tune_ray(any_ray):
    """A Ray of our own, with Ray Tune."""

    EXTRA, INSTEAD = "search", ""

    def __enter__(self) -> "tune_ray":
        os.environ.update(QUIET)
        super().__enter__()
        try:
            import ray.tune  # noqa: F401
        except ImportError as e:
            self.__exit__()
            raise ClusterFailed(
                f"Ray Tune cannot be imported ({in_a_line(e)}); pip install 'ndt3_dist[search]'"
            ) from e
        return self


def one_job(config: dict[str, Any]) -> None:
    """In a worker: a trial through the steps at which it is looked at, each told to Tune."""
    from ray import tune

    job = json.loads(config["job"])
    for look in job["looks"]:
        began = time.monotonic()
        try:
            found = advance(job, look)
        except Exception as e:
            said = str(e) if isinstance(e, SettingFailed) else f"{type(e).__name__}: {e}"
            tune.report({"failed": said})
            return
        found |= {"score": sum(found["scores"]) / len(found["scores"])}
        found |= {"rung": job["steps"] if found["over"] else look}
        tune.report({**found, "seconds": round(time.monotonic() - began, 2)})
        if found["over"]:
            return


def search(
    what: Search, at_once: int, gpus: float, folder: str, say: Callable[[Trial], None]
) -> None:
    """Run all trials that are not over; Ray runs already, other arguments as of `run_trials`."""
    asha = what.space.method == "asha"
    scheduler = early_end(what.space, what.base, what.record.trials) if asha else None
    run_trials(Driver(what, at_once, say), gpus, folder, scheduler)


def run_trials(asked_of: Any, gpus: float, folder: str, scheduler: Any = None) -> None:
    """Run what a driver asks for, until it is over.

    Args:
        asked_of: Has next_job, take, over and is_over as `Driver` does.
        gpus: Of each trial, or a fraction.
        folder: For what Tune writes, which nobody reads.
        scheduler: Of Tune: which trials end early.
    """
    from ray import tune
    from ray.tune.search import Searcher

    class Asked(Searcher):
        driver: Any = None

        def __getstate__(self) -> dict:
            return {}  # Tune pickles it, and nobody reads that: what is known is in the record

        def suggest(self, trial_id: str) -> Any:
            job = self.driver.next_job(trial_id)
            if job:
                return {"job": json.dumps(job)}
            return Searcher.FINISHED if self.driver.is_over else None

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            self.driver.take(trial_id, result)

        def on_trial_complete(self, trial_id: str, result=None, error: bool = False) -> None:
            self.driver.over(trial_id, result, error)

        def save(self, checkpoint_path: str) -> None:
            pass

    asked = Asked()
    asked.driver = asked_of
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tune.Tuner(
        tune.with_resources(one_job, {"cpu": 1, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=asked,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(name="search", storage_path=folder, verbose=0),
    ).fit()


def early_end(space: Space, base: Base, trials: list[Trial]) -> Any:
    """Tune's successive halving, told all scores that are known."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr="rung",
        metric="score",
        mode=space.direction,
        max_t=base.steps,
        grace_period=space.first_steps,
        reduction_factor=space.reduction,
    )
    for trial in trials:
        past: Any = SimpleNamespace(trial_id=f"past {trial.number}")
        scheduler.on_trial_add(None, past)  # type: ignore[arg-type]
        for step, scores in sorted(trial.scores.items()):
            told = {"rung": step, "score": sum(scores) / len(scores)}
            scheduler.on_trial_result(None, past, told)  # type: ignore[arg-type]
    return scheduler
